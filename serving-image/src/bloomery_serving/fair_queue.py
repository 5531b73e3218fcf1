"""A queue between clients and worker threads that gives each client the same time: start-time fair queueing.

The order is by the time that workers have spent for a client, so that a client whose requests take a second each does
not delay one whose requests take ten milliseconds. Source: Goyal, Vin and Cheng, "Start-time Fair Queueing" (1996).
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Items of many clients; may be used from any thread. Within a client, the first to come is the first to go."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[T]] = {}
        self._seconds: dict[str, float] = {}
        """Time spent for each client; one that comes back after a pause starts at the present, without savings."""
        self._present = 0.0
        self._lock = threading.Lock()
        # A token for each item that was put in; some are left over from items that were taken without waiting. Its
        # waiting is in C: a condition's would cost a request a tenth of its time.
        self._tokens: queue.SimpleQueue[None] = queue.SimpleQueue()

    def put(self, client: str, item: T) -> None:
        """Add an item of a client."""
        with self._lock:
            if client not in self._waiting:
                self._waiting[client] = deque()
                self._seconds[client] = max(self._seconds.get(client, 0.0), self._present)
            self._waiting[client].append(item)
        self._tokens.put(None)

    def get(self) -> T:
        """Wait for an item; return the first one of the client that had the least time."""
        while True:
            self._tokens.get()
            with self._lock:
                if self._waiting:
                    return self._pop()

    def get_nowait(self) -> T | None:
        """Return an item as ``get``; None if there is none."""
        with self._lock:
            return self._pop() if self._waiting else None

    def remove(self, client: str, item: T) -> bool:
        """Take an item out; return whether it was still there."""
        with self._lock:
            items = self._waiting.get(client)
            if items is None or item not in items:
                return False
            items.remove(item)
            self._forget_if_empty(client)
            return True

    def charge(self, client: str, seconds: float) -> None:
        """Count time that a worker spent for a client."""
        with self._lock:
            self._seconds[client] = self._seconds.get(client, 0.0) + seconds

    def _pop(self) -> T:
        client = min(self._waiting, key=self._seconds.__getitem__)
        self._present = max(self._present, self._seconds[client])
        item = self._waiting[client].popleft()
        self._forget_if_empty(client)
        return item

    def _forget_if_empty(self, client: str) -> None:
        if not self._waiting[client]:
            del self._waiting[client]
