"""Times at which objects that no watch informs of were last read, so that each event does not read them again."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

from cachetools import LRUCache

_MAX_READS = 50_000


class RecentReads:
    """Times of the last reads. In memory only: a restarted operator reads everything once."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with none; ``clock`` returns seconds."""
        self._clock = clock
        self._read_at: LRUCache[Hashable, float] = LRUCache(_MAX_READS)

    def note(self, key: Hashable) -> None:
        """Note that an object was read, and was as it should be."""
        self._read_at[key] = self._clock()

    def seconds_left(self, key: Hashable, interval: float) -> float:
        """Return the seconds until an object that is read once in an interval is to be read again; 0 if it is now."""
        read_at = self._read_at.get(key)
        return 0.0 if read_at is None else max(0.0, interval - (self._clock() - read_at))
