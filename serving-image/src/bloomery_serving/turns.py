"""Whose body is read: as many requests, and as many bytes of them together, as the memory can hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import Gauge

from bloomery_serving.errors import RequestError


class Turns:
    """The places of all requests that are read, wait or are worked on; one event loop's, so that nothing is locked."""

    def __init__(self, *, places: int, room: int, gauge: Gauge) -> None:
        """``room`` is how many bytes all bodies may have together; one that is alone always has room."""
        self._places = places
        self._room = room
        self._gauge = gauge
        self._taken = 0
        self._bytes = 0

    @contextmanager
    def take(self, announced: int) -> Iterator[Callable[[int], None]]:
        """Hold a place while the block runs, and room for a body of that many bytes.

        Yields:
            What makes room for a body that turns out to have more, by the number of all its bytes.

        Raises:
            RequestError: 429, every place or all room is taken.
        """
        held = 0

        def hold(total: int) -> None:
            nonlocal held
            more = max(0, total - held)
            if self._bytes > held and self._bytes + more > self._room:
                raise _later(f"The requests that wait have {self._bytes} bytes together")
            self._bytes += more
            held += more

        if self._taken >= self._places:
            raise _later(f"{self._taken} requests wait already")
        hold(announced)
        self._count(1)
        try:
            yield hold
        finally:
            self._bytes -= held
            self._count(-1)

    def _count(self, change: int) -> None:
        self._taken += change
        self._gauge.set(self._taken)


def _later(why: str) -> RequestError:
    return RequestError(429, "TooManyRequests", f"{why}; try again in a second.", headers={"retry-after": "1"})
