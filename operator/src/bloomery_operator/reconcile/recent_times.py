"""Times at which objects that no watch informs of were read, and statuses written: not each event does so again."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

from cachetools import LRUCache

_MAX_TIMES = 100_000


class RecentTimes:
    """Times of the last reads and writes. In memory only: a restarted operator does everything once."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with none; ``clock`` returns seconds."""
        self._clock = clock
        self._noted_at: LRUCache[Hashable, float] = LRUCache(_MAX_TIMES)

    def note(self, key: Hashable) -> None:
        """Note that an object was read, and was as it should be, or that it was written."""
        self._noted_at[key] = self._clock()

    def seconds_left(self, key: Hashable, interval: float) -> float:
        """Return the seconds until what is done once in an interval is to be done again; 0 if it is now."""
        noted_at = self._noted_at.get(key)
        return 0.0 if noted_at is None else max(0.0, interval - (self._clock() - noted_at))
