"""Work queue with one reconcile per item at a time, exponential backoff after failures, and delayed requeues.

The semantics are those of client-go's rate-limited workqueue: an item that is added during its own reconcile is
reconciled once more afterwards, however often it was added. Beyond these, groups of items take turns, so that a group
with many items delays no other, and a reconcile that waits for another server occupies no worker.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from bloomery_operator.metrics import OperatorMetrics

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

MIN_BACKOFF_SECONDS = 0.1
MAX_BACKOFF_SECONDS = 60.0
_MIN_TIMERS_TO_COMPACT = 64
"""Below this many timers, stale ones are not compacted."""


@dataclass(order=True)
class _Timer(Generic[Item]):
    due: float
    order: int
    item: Item = field(compare=False)


class WorkerSlots:
    """Limit of concurrent reconciles; one that waits for another server gives its slot to the next meanwhile."""

    def __init__(self, number: int) -> None:
        """Allow ``number`` reconciles to compute, or to wait for the API server, at a time."""
        self._free = asyncio.Semaphore(number)

    async def acquire(self) -> None:
        """Take a slot, once one is free."""
        await self._free.acquire()

    def release(self) -> None:
        """Return a slot."""
        self._free.release()

    @asynccontextmanager
    async def released(self) -> AsyncIterator[None]:
        """Wait for another server within the block; only the holder of a slot may do so, and only once at a time."""
        self.release()
        try:
            yield
        finally:
            await self.acquire()


class _ReadyItems(Generic[Item]):
    """Items in the order in which they were added, within groups that take turns."""

    def __init__(self, group: Callable[[Item], Hashable]) -> None:
        """Start empty."""
        self._group = group
        self._items: dict[Hashable, dict[Item, None]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._items.values()))

    def __contains__(self, item: Item) -> bool:
        return item in self._items.get(self._group(item), {})

    def __iter__(self) -> Iterator[Item]:
        return itertools.chain.from_iterable(self._items.values())

    def add(self, item: Item) -> None:
        """Add an item, unless it is there."""
        self._items.setdefault(self._group(item), {})[item] = None

    def pop(self) -> Item:
        """Remove and return the first item of the group whose turn it is."""
        group, items = next(iter(self._items.items()))
        del self._items[group]
        item = next(iter(items))
        del items[item]
        if items:
            self._items[group] = items
        return item


class WorkQueue(Generic[Item]):
    """Items that wait for a worker; an item is hashable."""

    def __init__(
        self,
        metrics: OperatorMetrics,
        *,
        slots: WorkerSlots,
        group: Callable[[Item], Hashable] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start empty; ``group`` gives the group of an item, ``clock`` seconds."""
        self._metrics = metrics
        self._slots = slots
        self._clock = clock
        self._ready: _ReadyItems[Item] = _ReadyItems(group)
        self._timers: list[_Timer[Item]] = []
        self._delayed: dict[Item, _Timer[Item]] = {}
        self._running: set[Item] = set()
        self._added_while_running: set[Item] = set()
        self._failures: dict[Item, int] = {}
        self._order = itertools.count()
        self._changed = asyncio.Event()

    def add(self, item: Item) -> None:
        """Queue the item for the next free worker."""
        self._delayed.pop(item, None)
        if item in self._running:
            self._added_while_running.add(item)
        else:
            self._ready.add(item)
        self._wake()

    def add_after(self, item: Item, seconds: float) -> None:
        """Queue the item after a delay; of several delays the earliest counts."""
        timer = _Timer(self._clock() + seconds, next(self._order), item)
        if item in self._ready or (item in self._delayed and self._delayed[item].due <= timer.due):
            return
        self._delayed[item] = timer
        heapq.heappush(self._timers, timer)
        self._compact_timers()
        self._wake()

    def forget(self, item: Item) -> None:
        """Drop the timer and the failures of an item whose object was deleted."""
        self._delayed.pop(item, None)
        self._failures.pop(item, None)

    async def work(self, reconcile: Callable[[Item], Awaitable[float | None]]) -> None:
        """Reconcile items as they become ready, each in a task with a slot; never returns."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._wait_for_item()
                await self._slots.acquire()
                # Nothing else takes items, so one is still ready.
                item = self._ready.pop()
                self._metrics.queue_depth.set(len(self._ready))
                self._running.add(item)
                tasks.create_task(self._work_on(item, reconcile))

    async def _work_on(self, item: Item, reconcile: Callable[[Item], Awaitable[float | None]]) -> None:
        """Reconcile an item, and requeue it if needed."""
        try:
            await self._reconcile(item, reconcile)
        finally:
            self._slots.release()
            self._running.discard(item)
            if item in self._added_while_running:
                self._added_while_running.discard(item)
                self.add(item)

    async def _reconcile(self, item: Item, reconcile: Callable[[Item], Awaitable[float | None]]) -> None:
        try:
            delay = await reconcile(item)
        except Exception as error:
            failures = self._failures[item] = self._failures.get(item, 0) + 1
            backoff = min(MAX_BACKOFF_SECONDS, MIN_BACKOFF_SECONDS * 2 ** (failures - 1))
            # The traceback is for debugging only: conflicts and restarts of the API server are normal.
            logger.warning("%s failed and is tried again in %.1f s: %r", item, backoff, error)
            logger.debug("%s failed", item, exc_info=error)
            self.add_after(item, backoff)
            return
        self._failures.pop(item, None)
        if delay is not None:
            self.add_after(item, delay)

    async def _wait_for_item(self) -> None:
        while True:
            self._promote_due()
            if self._ready:
                return
            self._changed.clear()
            timeout = max(0.0, self._timers[0].due - self._clock()) if self._timers else None
            # Not asyncio.wait_for: before Python 3.12, it loses a cancellation that comes together with its result.
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._changed.wait()

    def _promote_due(self) -> None:
        now = self._clock()
        while self._timers and self._timers[0].due <= now:
            timer = heapq.heappop(self._timers)
            if self._is_current(timer):
                self.add(timer.item)

    def _is_current(self, timer: _Timer[Item]) -> bool:
        """Return whether no earlier timer and no event has replaced the timer."""
        return self._delayed.get(timer.item) is timer

    def _compact_timers(self) -> None:
        """Drop stale timers once they are the majority: each event leaves one behind, some for a day."""
        if len(self._timers) > max(_MIN_TIMERS_TO_COMPACT, 2 * len(self._delayed)):
            self._timers = [timer for timer in self._timers if self._is_current(timer)]
            heapq.heapify(self._timers)

    def _wake(self) -> None:
        self._metrics.queue_depth.set(len(self._ready))
        self._changed.set()
