"""Times at which something was last done, or first waited for: not each event does it again."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

from cachetools import LRUCache

_MAX_TIMES = 100_000


class RecentTimes:
    """Times by what was done. In memory only: a restarted operator does everything at once."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with none; ``clock`` returns seconds."""
        self._clock = clock
        self._noted_at: LRUCache[Hashable, float] = LRUCache(_MAX_TIMES)

    def note(self, key: Hashable) -> None:
        """Note that something was done now, such as a read of an object that no watch informs of."""
        self._noted_at[key] = self._clock()

    def note_first(self, key: Hashable) -> None:
        """Note that something happened now, unless that is noted already."""
        self._noted_at.setdefault(key, self._clock())

    def forget(self, key: Hashable) -> None:
        """Forget a time."""
        self._noted_at.pop(key, None)

    def seconds_left(self, key: Hashable, interval: float) -> float:
        """Return the seconds that are left of an interval since the noted time; 0 if there are none."""
        noted_at = self._noted_at.get(key)
        return 0.0 if noted_at is None else max(0.0, interval - (self._clock() - noted_at))
