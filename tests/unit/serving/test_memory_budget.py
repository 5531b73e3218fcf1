"""The budget of memory: who came first is served first, and waiting is no work that hangs."""

from __future__ import annotations

import threading
from contextlib import ExitStack

from bloomery_serving.jobs import Watchdog
from bloomery_serving.memory_budget import MemoryBudget

SECONDS = 20.0


def test_large_part_is_not_passed_by_small_ones() -> None:
    budget, order = MemoryBudget(10), list[str]()

    def take(name: str, count: int) -> None:
        with budget.acquire(count):
            order.append(name)

    with ExitStack() as held:
        held.enter_context(budget.acquire(6))
        large = threading.Thread(target=take, args=("large", 8))
        large.start()
        while not budget.waiting:
            pass
        small = threading.Thread(target=take, args=("small", 2))
        small.start()
        small.join(0.2)
        assert order == []
    large.join(SECONDS)
    small.join(SECONDS)
    assert order == ["large", "small"]


def test_who_waits_for_memory_does_not_hang() -> None:
    now = 0.0
    watchdog = Watchdog(60, clock=lambda: now)
    with watchdog.step():
        with watchdog.pause():
            now = 100.0
            assert not watchdog.is_hung
        assert not watchdog.is_hung
        now = 161.0
        assert watchdog.is_hung
    assert not watchdog.is_hung
