"""Concurrent maps: order, limit and early end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from bloomery_model.parallel import bounded_map, map_in_order


def test_results_keep_the_order_of_the_items() -> None:
    first_may_end = threading.Event()

    def double(number: int) -> int:
        if number == 0:
            first_may_end.wait(timeout=60)
        else:
            first_may_end.set()
        return 2 * number

    assert list(map_in_order(double, range(20), threads=2)) == list(range(0, 40, 2))


def test_no_more_items_are_taken_than_the_limit() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(100):
            taken += 1
            yield number

    with ThreadPoolExecutor(2) as executor:
        results = bounded_map(executor, str, items(), limit=5)
        for number in range(10):
            assert next(results) == str(number)
            assert taken == number + 5


def test_error_of_an_item_cancels_the_pending_ones() -> None:
    called: list[int] = []
    second_may_end = threading.Event()

    def fail_first(number: int) -> None:
        called.append(number)
        if number == 0:
            raise ValueError(number)
        second_may_end.wait(timeout=60)

    with ThreadPoolExecutor(1) as executor:
        with pytest.raises(ValueError):
            list(bounded_map(executor, fail_first, range(50), limit=50))
        second_may_end.set()

    assert called in ([0], [0, 1])
