"""Admission control: as many requests, and as many bytes of them together, as the memory can hold.

A request is *received* until its body has arrived, then it *waits* for a worker or is worked on. Both have a bound of
their own: clients that send slowly keep nobody from the workers. An eighth of every bound is kept for each client, so
that none can take all of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import Gauge
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bloomery_serving.api.errors import too_many_requests
from bloomery_serving.request_scope import keep_reservation, key_name

_PARTS = 8
"""One of so many parts of a bound is there for each client, whatever the others have."""


@dataclass(frozen=True, kw_only=True)
class AdmissionLimits:
    """Bounds of all requests together: those received, those that wait or are worked on, and bytes of bodies."""

    receiving: int
    waiting: int
    bytes: int


class _Bound:
    """A number of places that clients share."""

    def __init__(self, limit: int) -> None:
        self.total = 0
        self._limit = limit
        self._by_client: Counter[str] = Counter()

    def has_room(self, client: str, count: int = 1) -> bool:
        """Return whether a client may take so many places."""
        return self.total + count <= self._limit or self._by_client[client] + count <= self._limit // _PARTS

    def add(self, client: str, count: int = 1) -> None:
        """Count places of a client; a negative number gives them back."""
        self.total += count
        self._by_client[client] += count
        if not self._by_client[client]:
            del self._by_client[client]


class AdmissionControl:
    """Counts the requests that are received, wait or are worked on; for one event loop, so that nothing is locked."""

    def __init__(self, limits: AdmissionLimits, *, gauge: Gauge) -> None:
        """A request that is alone always has room for its bytes."""
        self.receiving = _Bound(limits.receiving)
        self.waiting = _Bound(limits.waiting)
        self.bytes = _Bound(limits.bytes)
        self._gauge = gauge

    @contextmanager
    def admit(self, client: str) -> Iterator[Reservation]:
        """Admit one request of a client while the block runs.

        Raises:
            RequestError: 429, there are too many requests.
        """
        if not self.waiting.has_room(client):
            raise too_many_requests(f"{self.waiting.total} requests wait already")
        if not self.receiving.has_room(client):
            raise too_many_requests(f"{self.receiving.total} requests are being sent already")
        reservation = Reservation(self, client)
        try:
            yield reservation
        finally:
            reservation.release()

    def update_gauge(self) -> None:
        """Show the number of requests."""
        self._gauge.set(self.receiving.total + self.waiting.total)


class Reservation:
    """The places and the bytes of one admitted request."""

    def __init__(self, control: AdmissionControl, client: str) -> None:
        self._control = control
        self._client = client
        self._bytes = 0
        self._is_held = True
        self._place = control.receiving
        self._place.add(client)
        control.update_gauge()

    def add_bytes(self, count: int) -> None:
        """Take room for more bytes of the request's body.

        Raises:
            RequestError: 429, the bodies of all requests have too many bytes.
        """
        if not self._is_held:
            return  # the rest of a body that was answered already is read and dropped
        bound = self._control.bytes
        if bound.total > self._bytes and not bound.has_room(self._client, count):
            raise too_many_requests(f"The requests that wait have {bound.total} bytes together")
        bound.add(self._client, count)
        self._bytes += count

    def wait_for_worker(self) -> None:
        """Note that the body has arrived.

        Raises:
            RequestError: 429, too many requests wait.
        """
        control = self._control
        if self._place is control.waiting or not self._is_held:
            return
        if not control.waiting.has_room(self._client):
            raise too_many_requests(f"{control.waiting.total} requests wait already")
        self._place.add(self._client, -1)
        self._place = control.waiting
        self._place.add(self._client)

    def release(self) -> None:
        """Give everything back, once."""
        if not self._is_held:
            return
        self._is_held = False
        self._place.add(self._client, -1)
        self._control.bytes.add(self._client, -self._bytes)
        self._control.update_gauge()


class Admission:
    """Admits a prediction before its body is read, so that many large bodies cannot fill the memory."""

    def __init__(self, app: ASGIApp, *, control: AdmissionControl) -> None:
        self._app = app
        self._control = control

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; one that asks for work must be admitted first.

        Raises:
            RequestError: as ``AdmissionControl.admit``, also from ``receive``.
        """
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        with self._control.admit(key_name(scope)) as reservation:
            keep_reservation(scope, reservation)
            await self._app(scope, _receive_within(reservation, receive), _send_within(reservation, send))


def _send_within(reservation: Reservation, send: Send) -> Send:
    """Release a reservation before the answer ends: the client's next request must not meet its own last one."""

    async def send_within(message: Message) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body"):
            reservation.release()
        await send(message)

    return send_within


def _receive_within(reservation: Reservation, receive: Receive) -> Receive:
    """Let a reservation grow with the bytes that arrive; the length that a client announces costs it nothing."""

    async def receive_within() -> Message:
        message = await receive()
        if message["type"] == "http.request":
            reservation.add_bytes(len(message.get("body", b"")))
            if not message.get("more_body"):
                reservation.wait_for_worker()
        return message

    return receive_within
