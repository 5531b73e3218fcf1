"""HTTP connections with bounds on what a client sends before its request is looked at.

uvicorn's parser bounds neither the size of a request's head nor the time that it takes, nor the number of connections:
before any key is read, one client could fill the memory, or keep connections for ever. The defaults are those of
common servers: nginx and Envoy take heads of 32 to 64 KiB, Apache 100 headers.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from bloomery_serving.api.errors import RequestError

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 100
MAX_PIPELINED = 8
"""Requests that a client may send behind one that is not answered yet."""
LINGER_SECONDS = 2
"""Time in which a client that is still sending can read why it is refused."""


@dataclass(frozen=True)
class ConnectionLimits:
    """Bounds of one server's connections.

    Attributes:
        connections: number of them; one more takes the place of the oldest that has no request under way.
        head_seconds: time for a request's head to arrive.
        request_seconds: time for a whole request to arrive, also if it is answered earlier, and for a client that does
            not read its answer.
    """

    connections: int
    head_seconds: float
    request_seconds: float


class _Refused(Exception):
    """A request's head is not accepted."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection; ``close_overdue`` ends those whose time has passed."""

    limits: ClassVar[ConnectionLimits]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection; if there are too many, end the oldest that has no request under way, or this one."""
        self._quiet_since = time.monotonic()
        """The time since which the client is expected to send a head."""
        self._began: float | None = None
        """The time at which the present request's first byte came; None once it has arrived in full."""
        self._is_in_head = True
        self._blocked_since: float | None = None
        """The time since which the client does not read what is sent to it."""
        self._refused_at: float | None = None
        self._head_bytes, self._headers_count, self._bytes_without_body = 0, 0, 0
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            others = [other for other in self.connections if isinstance(other, BoundedProtocol) and other is not self]
            idle = [other for other in others if other.is_idle]
            min(idle, key=lambda other: other._quiet_since, default=self).end()

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way that has its head, and still lacks its answer."""
        return self.cycle is None or self.cycle.response_complete

    def end(self) -> None:
        """Close the connection at once."""
        self.connections.discard(self)
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Parse what the client sent, within the limits of a head."""
        if self._refused_at is not None:
            return
        now = time.monotonic()
        if self._began is None:
            self._began = now
        self._bytes_without_body += len(data)
        super().data_received(data)
        # Unless these bytes ended a head or were a body: a header of megabytes would be copied for each packet of it.
        if self._bytes_without_body > MAX_HEAD_BYTES and self._refused_at is None:
            self._refuse_head()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  # uvicorn's own words
        """Refuse what the parser does not accept."""
        if self._head_bytes > MAX_HEAD_BYTES or self._headers_count > MAX_HEADERS:
            self._refuse_head()
        else:
            self._refuse(RequestError(400, "BadRequest", "The request is not valid HTTP/1.1."))

    def on_message_begin(self) -> None:
        """Begin a request."""
        if len(self.pipeline) >= MAX_PIPELINED:
            raise _Refused
        if self._began is None:  # it follows another one in the same packet
            self._began = time.monotonic()
        self._head_bytes, self._headers_count = 0, 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Take a part of the address."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, or a trailer behind a body."""
        self._headers_count += 1
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start to answer."""
        self._is_in_head = False
        self._bytes_without_body = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._bytes_without_body = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request has arrived in full."""
        self._began = None
        self._is_in_head = True
        self._bytes_without_body = 0
        self._quiet_since = time.monotonic()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Note that the connection waits for the next request."""
        self._quiet_since = time.monotonic()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Note that the client does not read."""
        self._blocked_since = time.monotonic()
        super().pause_writing()

    def resume_writing(self) -> None:
        """Note that the client reads again."""
        self._blocked_since = None
        super().resume_writing()

    def is_overdue(self, now: float) -> bool:
        """Return whether the client had its time: for a head, for the rest of a request, or to read an answer.

        The time for a body that somebody waits for is the middleware's matter, which answers a sentence.
        """
        limits = self.limits
        if self._refused_at is not None:
            return now - self._refused_at > LINGER_SECONDS
        if self._blocked_since is not None:
            return now - self._blocked_since > limits.request_seconds
        if not self.is_idle:
            return False
        if self._began is not None:
            return now - self._began > (limits.head_seconds if self._is_in_head else limits.request_seconds)
        # After an answer, the keep-alive of uvicorn is what counts.
        return self.cycle is None and now - self._quiet_since > limits.request_seconds

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES or self._headers_count > MAX_HEADERS:
            raise _Refused

    def _refuse_head(self) -> None:
        message = f"The head of a request may have {MAX_HEAD_BYTES} bytes and {MAX_HEADERS} headers at most."
        self._refuse(RequestError(431, "HeadTooLarge", message))

    def _refuse(self, error: RequestError) -> None:
        """Answer, and read nothing more; where another answer is under way, only close."""
        self._refused_at = time.monotonic()
        if not self.is_idle or self.transport.is_closing():
            self.transport.close()
            return
        body = json.dumps({"error": error.document}).encode()
        head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[error.status] + head + body)
        # The client may still send: if the connection were closed now, the answer could be lost.
        self.transport.write_eof()


def bounded_protocol(connection_limits: ConnectionLimits) -> type[BoundedProtocol]:
    """Return a protocol with these limits, as uvicorn makes its instances itself."""

    class Protocol(BoundedProtocol):
        limits: ClassVar[ConnectionLimits] = connection_limits

    return Protocol


def close_overdue(state: ServerState) -> None:
    """End the connections whose time has passed."""
    now = time.monotonic()
    connections: list[Any] = list(state.connections)
    for connection in connections:
        if isinstance(connection, BoundedProtocol) and connection.is_overdue(now):
            connection.end()
