"""Concurrent maps that keep the order of their items and bound the number of results in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def bounded_map(
    executor: Executor, function: Callable[[Item], Result], items: Iterable[Item], *, limit: int
) -> Generator[Result, None, None]:
    """Yield ``function(item)`` for each item, in order; at most ``limit`` calls are under way or waiting to be yielded.

    ``Executor.map`` submits all items at once. The limit keeps memory flat while images stream through.
    """
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(executor.submit(function, item))
            if len(pending) >= limit:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


def map_in_order(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int
) -> Generator[Result, None, None]:
    """Yield ``function(item)`` for each item, in order, from threads that end with the map."""
    with ThreadPoolExecutor(threads, thread_name_prefix="worker") as executor:
        yield from bounded_map(executor, function, items, limit=2 * threads)
