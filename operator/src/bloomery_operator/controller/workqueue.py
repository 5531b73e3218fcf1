"""Work queue with one reconcile per item at a time, exponential backoff after failures, and delayed requeues.

The semantics are those of client-go's rate-limited workqueue: an item that is added during its own reconcile is
reconciled once more afterwards, however often it was added.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import time
from collections.abc import Awaitable, Callable
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


class WorkQueue(Generic[Item]):
    """Items that wait for a worker; an item is hashable."""

    def __init__(self, metrics: OperatorMetrics, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Start empty; ``clock`` returns seconds."""
        self._metrics = metrics
        self._clock = clock
        self._ready: dict[Item, None] = {}
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
            self._ready[item] = None
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
        """Run one worker: take an item, reconcile it, requeue it if needed; never returns."""
        while True:
            item = await self._next()
            self._running.add(item)
            try:
                await self._reconcile(item, reconcile)
            finally:
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

    async def _next(self) -> Item:
        while True:
            self._promote_due()
            if self._ready:
                item = next(iter(self._ready))
                del self._ready[item]
                self._metrics.queue_depth.set(len(self._ready))
                return item
            self._changed.clear()
            timeout = max(0.0, self._timers[0].due - self._clock()) if self._timers else None
            try:
                await asyncio.wait_for(self._changed.wait(), timeout)
            except TimeoutError:
                continue

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
