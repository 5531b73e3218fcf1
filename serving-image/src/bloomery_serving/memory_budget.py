"""A budget of memory that threads share."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class MemoryBudget:
    """A number of bytes, parts of which threads take for a time."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._taken = 0
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @property
    def waiting(self) -> int:
        """Number of threads that wait for their part."""
        return len(self._waiting)

    @contextmanager
    def acquire(self, count: int) -> Iterator[None]:
        """Wait until so many bytes are free, and hold them while the block runs; nobody waits who is alone.

        Who came first is served first: a large part would else wait for as long as small ones come.
        """
        ticket = object()

        def is_free() -> bool:
            return self._waiting[0] is ticket and (self._taken == 0 or self._taken + count <= self._total)

        with self._changed:
            self._waiting.append(ticket)
            self._changed.wait_for(is_free)
            self._waiting.popleft()
            self._taken += count
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._taken -= count
                self._changed.notify_all()
