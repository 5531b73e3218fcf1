"""Whose hands do the work: a process for each processor where there is much of it, else threads of this one.

Judging small images is as much Python as decoding, and the threads of one process take turns at Python.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeVar

from bloomery_model.cgroup import cpu_count, memory_bytes
from bloomery_trainer.errors import Unavailable

Tools = TypeVar("Tools")
Item = TypeVar("Item")
Result = TypeVar("Result")

_MUCH = 2000
"""From so many images on, starting processes takes less time than it saves."""

_MOST = 16
_MEMORY = 512 * 1024 * 1024
"""Bytes for each process, with the images that it holds at a time: a pod may see many processors and little memory."""


class Crew:
    """Does the same thing to many items; at most twice as many wait as there are hands."""

    def __init__(self, executor: Executor, hands: int, *, apart: bool) -> None:
        self._executor = executor
        self._hands = hands
        self._apart = apart

    def map_in_order(
        self, function: Callable[[Tools, Item], Result], tools: Tools, items: Iterable[Item]
    ) -> Iterator[Result]:
        """Yields `function(tools, item)` for each item, in order; a process gets the tools only once."""
        packed = pickle.dumps(tools) if self._apart else b""
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                if self._apart:
                    waiting.append(self._executor.submit(_with_tools, packed, function, item))
                else:
                    waiting.append(self._executor.submit(function, tools, item))
                if len(waiting) >= 2 * self._hands:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise Unavailable("WorkerLost", "a process that reads images was ended, for want of memory?") from error
        finally:
            for future in waiting:
                future.cancel()


@contextmanager
def open_crew(images: int) -> Iterator[Crew]:
    """A crew for so many images."""
    hands = max(1, min(cpu_count(), _MOST, memory_bytes() // _MEMORY))
    apart = hands > 1 and images >= _MUCH
    executor: Executor
    if apart:
        # Not forked: the threads of the store's client would be missing in the copy.
        context = multiprocessing.get_context("spawn")
        executor = ProcessPoolExecutor(hands, mp_context=context, initializer=_end_with_parent)
    else:
        executor = ThreadPoolExecutor(hands, thread_name_prefix="hand")
    try:
        yield Crew(executor, hands, apart=apart)
    finally:
        executor.shutdown(cancel_futures=True)


def _with_tools(packed: bytes, function: Callable[[Any, Item], Result], item: Item) -> Result:
    return function(_unpacked(packed), item)


@lru_cache(maxsize=1)
def _unpacked(packed: bytes) -> Any:
    return pickle.loads(packed)


def _end_with_parent() -> None:
    """A process whose parent was killed would wait for work forever."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()
