"""The keyed queue: single flight for a key, exponential backoff on failure, requeue after a time.

The semantics are those of client-go's rate-limited workqueue: a key that is added while it is being worked on
is worked on once more afterwards; adding it many times before that counts once.
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

FIRST_BACKOFF_SECONDS = 0.1
LONGEST_BACKOFF_SECONDS = 60.0
FEWEST_TIMERS = 64
"""So few are never looked through for those that nobody waits for any more."""


@dataclass(order=True)
class _Timer(Generic[Item]):
    due: float
    order: int
    item: Item = field(compare=False)


class WorkQueue(Generic[Item]):
    """Items that wait for a worker; an item is an equal-comparable key."""

    def __init__(self, metrics: OperatorMetrics, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Start empty; ``clock`` gives seconds."""
        self._metrics = metrics
        self._clock = clock
        self._ready: dict[Item, None] = {}
        self._timers: list[_Timer[Item]] = []
        self._waiting: dict[Item, _Timer[Item]] = {}
        self._running: set[Item] = set()
        self._again: set[Item] = set()
        self._failures: dict[Item, int] = {}
        self._order = itertools.count()
        self._changed = asyncio.Event()

    def add(self, item: Item) -> None:
        """Ask for the item to be worked on as soon as can be."""
        self._waiting.pop(item, None)
        if item in self._running:
            self._again.add(item)
        else:
            self._ready[item] = None
        self._wake()

    def add_after(self, item: Item, seconds: float) -> None:
        """Ask for the item to be worked on in so many seconds; the earliest such wish counts."""
        timer = _Timer(self._clock() + seconds, next(self._order), item)
        if item in self._ready or (item in self._waiting and self._waiting[item].due <= timer.due):
            return
        self._waiting[item] = timer
        heapq.heappush(self._timers, timer)
        self._drop_overtaken()
        self._wake()

    def forget(self, item: Item) -> None:
        """Drop the item's timers and failures: it is gone for good."""
        self._waiting.pop(item, None)
        self._failures.pop(item, None)

    async def work(self, reconcile: Callable[[Item], Awaitable[float | None]]) -> None:
        """Be one worker: take an item, reconcile it, see to what comes next; never ends."""
        while True:
            item = await self._next()
            self._running.add(item)
            try:
                await self._reconcile(item, reconcile)
            finally:
                self._running.discard(item)
                if item in self._again:
                    self._again.discard(item)
                    self.add(item)

    async def _reconcile(self, item: Item, reconcile: Callable[[Item], Awaitable[float | None]]) -> None:
        try:
            after = await reconcile(item)
        except Exception as error:
            failures = self._failures[item] = self._failures.get(item, 0) + 1
            delay = min(LONGEST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2 ** (failures - 1))
            # The trace is for whoever debugs us; a conflict or an API server that restarts is daily business.
            logger.warning("%s failed and is tried again in %.1f s: %r", item, delay, error)
            logger.debug("%s failed", item, exc_info=error)
            self.add_after(item, delay)
            return
        self._failures.pop(item, None)
        if after is not None:
            self.add_after(item, after)

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
            if self._counts(timer):
                self.add(timer.item)

    def _counts(self, timer: _Timer[Item]) -> bool:
        """Whether a timer was not overtaken by an earlier one, or by an event."""
        return self._waiting.get(timer.item) is timer

    def _drop_overtaken(self) -> None:
        """Keep no timers that were overtaken once they are most: each event leaves one behind, some for a day."""
        if len(self._timers) > max(FEWEST_TIMERS, 2 * len(self._waiting)):
            self._timers = [timer for timer in self._timers if self._counts(timer)]
            heapq.heapify(self._timers)

    def _wake(self) -> None:
        self._metrics.queue_depth.set(len(self._ready))
        self._changed.set()
