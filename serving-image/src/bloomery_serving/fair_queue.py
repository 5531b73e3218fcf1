"""A queue between clients and worker threads that gives each client the same time: start-time fair queueing.

The order is by the time that workers have spent for a client, so that a client whose requests take a second each does
not delay one whose requests take ten milliseconds. Source: Goyal, Vin and Cheng, "Start-time Fair Queueing" (1996).
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class ClientTimes:
    """Time that workers spent for each client; queues may share it, so that work in one counts in the others, too."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        """Guards this and the queues that share it."""
        self._seconds: dict[str, float] = {}
        self._present = 0.0

    def begin(self, client: str) -> None:
        """Note that a client has work again: after a pause it starts at the present, without savings."""
        self._seconds[client] = max(self._seconds.get(client, 0.0), self._present)

    def choose(self, clients: Iterable[str]) -> str:
        """Return the client that had the least time, whose turn is the present."""
        client = min(clients, key=self._seconds.__getitem__)
        self._present = max(self._present, self._seconds[client])
        return client

    def add(self, client: str, seconds: float) -> None:
        """Count time that was spent for a client."""
        self._seconds[client] = self._seconds.get(client, 0.0) + seconds


class FairQueue(Generic[T]):
    """Items of many clients; may be used from any thread. Within a client, the first to come is the first to go."""

    def __init__(self, times: ClientTimes | None = None) -> None:
        """Create an empty queue, with times of its own unless it shares some."""
        self._waiting: dict[str, deque[T]] = {}
        self._times = times or ClientTimes()
        self._lock = self._times.lock
        # A token for each item that was put in; some are left over from items that were taken without waiting. Its
        # waiting is in C: a condition's would cost a request a tenth of its time.
        self._tokens: queue.SimpleQueue[None] = queue.SimpleQueue()

    def put(self, client: str, item: T) -> None:
        """Add an item of a client."""
        with self._lock:
            if client not in self._waiting:
                self._waiting[client] = deque()
                self._times.begin(client)
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
            self._times.add(client, seconds)

    def _pop(self) -> T:
        client = self._times.choose(self._waiting)
        item = self._waiting[client].popleft()
        self._forget_if_empty(client)
        return item

    def _forget_if_empty(self, client: str) -> None:
        if not self._waiting[client]:
            del self._waiting[client]
