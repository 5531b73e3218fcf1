"""Admission control: as many predictions, and as many bytes of them together, as the memory can hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Gauge
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bloomery_serving.api.errors import RequestError


class AdmissionControl:
    """Counts the requests that are read, wait or are worked on; for one event loop, so that nothing is locked."""

    def __init__(self, *, max_requests: int, max_bytes: int, gauge: Gauge) -> None:
        """``max_bytes`` bounds all bodies together; a request that is alone always has room."""
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._gauge = gauge
        self._requests = 0
        self._bytes = 0

    @contextmanager
    def acquire(self, announced_bytes: int) -> Iterator[Reservation]:
        """Admit one request while the block runs, with room for a body of that many bytes.

        Raises:
            RequestError: 429, there are too many requests or too many bytes.
        """
        if self._requests >= self._max_requests:
            raise _too_many(f"{self._requests} requests wait already")
        reservation = Reservation(self)
        reservation.grow(announced_bytes)
        self._count(1)
        try:
            yield reservation
        finally:
            self._bytes -= reservation.bytes
            self._count(-1)

    def reserve(self, reservation: Reservation, more: int) -> None:
        """Take room for more bytes of one request's body.

        Raises:
            RequestError: 429, the bodies of all requests have too many bytes.
        """
        if self._bytes > reservation.bytes and self._bytes + more > self._max_bytes:
            raise _too_many(f"The requests that wait have {self._bytes} bytes together")
        self._bytes += more
        reservation.bytes += more

    def _count(self, change: int) -> None:
        self._requests += change
        self._gauge.set(self._requests)


class Reservation:
    """The room that one admitted request's body takes."""

    def __init__(self, control: AdmissionControl) -> None:
        self.bytes = 0
        self._control = control

    def grow(self, total: int) -> None:
        """Make room for a body of ``total`` bytes, if it has more than were reserved.

        Raises:
            RequestError: as ``AdmissionControl.reserve``.
        """
        self._control.reserve(self, max(0, total - self.bytes))


class Admission:
    """Admits a prediction before its body is read, so that many large bodies cannot fill the memory."""

    def __init__(self, app: ASGIApp, *, control: AdmissionControl) -> None:
        self._app = app
        self._control = control

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; one that asks for work must be admitted first.

        Raises:
            RequestError: as ``AdmissionControl.acquire``, also from ``receive``.
        """
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "")
        with self._control.acquire(int(length) if length.isdigit() else 0) as reservation:
            await self._app(scope, _receive_within(reservation, receive), send)


def _receive_within(reservation: Reservation, receive: Receive) -> Receive:
    """Let a reservation grow with the body, which may be longer than announced."""
    received = 0

    async def receive_within() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        reservation.grow(received)
        return message

    return receive_within


def _too_many(cause: str) -> RequestError:
    return RequestError(429, "TooManyRequests", f"{cause}; try again in a second.", headers={"retry-after": "1"})
