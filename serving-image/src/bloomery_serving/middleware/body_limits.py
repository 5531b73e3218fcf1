"""Bounds the size of a request's body and the time that it takes to arrive."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bloomery_serving.api.errors import RequestError

FIRST_SECONDS = 20.0
LEAST_BYTES_PER_SECOND = 500
"""The least rate of a body: after the first seconds, each second needs so many bytes. Apache's defaults, too
(mod_reqtimeout, ``body=20,MinRate=500``)."""


class BodyLimits:
    """Refuses bodies that are too large by their announced length, else while they are read."""

    def __init__(self, app: ASGIApp, *, max_bytes: int, max_seconds: float) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request whose body keeps to the limits.

        Raises:
            RequestError: 413 or 415; from ``receive`` also 408.
        """
        if scope["type"] == "http":
            self._check_headers(Headers(scope=scope), scope["path"])
            if scope["method"] == "POST":
                receive = self._limit(receive)
        await self._app(scope, receive, send)

    def _check_headers(self, headers: Headers, path: str) -> None:
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self._max_bytes:
            raise self._too_large()
        encoding = headers.get("content-encoding", "identity").lower()
        if encoding == "identity" or (encoding == "gzip" and path.endswith("/infer")):
            return
        message = f"A body packed with {encoding} is not read: images are packed already, send them as they are."
        if path.endswith("/infer"):
            message = f"A body packed with {encoding} is not read: send it as it is, or with gzip."
        raise RequestError(415, "PackedBody", message)

    def _limit(self, receive: Receive) -> Receive:
        """Count the bytes that arrive, as a chunked body announces no length, and watch the clock."""
        received, is_complete = 0, False
        began = asyncio.get_running_loop().time()

        async def limited() -> Message:
            nonlocal received, is_complete
            if is_complete:  # from now on this waits for the client to leave, as long as the answer takes
                return await receive()
            seconds = min(self._max_seconds, FIRST_SECONDS + received / LEAST_BYTES_PER_SECOND)
            try:
                async with asyncio.timeout_at(began + seconds):
                    message = await receive()
            except TimeoutError as error:
                raise _too_slow(received, seconds) from error
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise self._too_large()
            is_complete = not message.get("more_body")
            return message

        return limited

    def _too_large(self) -> RequestError:
        return RequestError(413, "BodyTooLarge", f"A request may have {self._max_bytes} bytes at most.")


def _too_slow(received: int, seconds: float) -> RequestError:
    message = f"The request did not arrive in time: {received} bytes of its body came within {seconds:g} seconds."
    return RequestError(408, "RequestTimeout", message, headers={"connection": "close"})
