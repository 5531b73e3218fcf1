"""What stands before every request: the key and the length, before any body is read; and what is on every answer."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bloomery_serving.auth import KeyRing, given_key
from bloomery_serving.errors import RequestError
from bloomery_serving.metrics import Metrics
from bloomery_serving.turns import Turns

OPEN_PATHS = ("/v2/health/live", "/v2/health/ready", "/upload", "/docs", "/openapi.json")
OPEN_FOLDERS = ("/upload/", "/docs/")
"""What needs no key to be read: probes, and the pages with their files."""

NO_KEY = ""
"""The name under which requests without a key are counted; no key can have it."""
GONE = 499
"""What nginx counts a request as whose client left before it was answered: no fault of the server's."""

_OTHER = "other"
_HOW = "send it as 'Authorization: KEY' or 'Authorization: Bearer KEY'"
_MISSING_KEY = f"This service needs a key: {_HOW}."
_WRONG_KEY = f"This service needs a key, and what was sent is none of its own: {_HOW}; new ones take up to two minutes."


@dataclass(frozen=True)
class BodyLimits:
    """What a body may have, and how long it may take to arrive."""

    bytes: int
    seconds: float


class Gate:
    """ASGI middleware: keys, body limits, lineage headers and metrics."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        headers: Mapping[str, str],
        body: BodyLimits,
        turns: Turns,
        keys: KeyRing | None,
    ) -> None:
        self._app = app
        self._metrics = metrics
        # Names in other scripts go as UTF-8, as browsers and curl show them.
        self._headers = [(name.encode("latin-1"), value.encode()) for name, value in headers.items()]
        self._body = body
        self._turns = turns
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, code, key = time.perf_counter(), 500, NO_KEY

        async def send_with_headers(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
                message = {**message, "headers": [*message["headers"], *self._headers]}
            await send(message)

        try:
            key = self._admit(scope)
            if scope["method"] == "POST":
                if await self._in_turn(scope, receive, send_with_headers):
                    code = GONE
            else:
                await self._app(scope, receive, send_with_headers)
        except RequestError as error:
            await _refuse(error, scope, send_with_headers)
        finally:
            self._metrics.count(_pattern(scope, code), code, key, time.perf_counter() - start)

    async def _in_turn(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Answer a request that asks for work; return whether its client left before.

        A place is taken before the body is read, so that many large bodies can not fill the memory.
        """
        length = Headers(scope=scope).get("content-length", "")
        with self._turns.take(int(length) if length.isdigit() else 0) as hold:
            return await _leaves_before(self._app, scope, self._limited(receive, hold), receive, send)

    def _admit(self, scope: Scope) -> str:
        """Return the name of the request's key; refuse it without one, or with a body that is too large."""
        headers = Headers(scope=scope)
        name = NO_KEY
        if self._keys is not None and not _is_open(scope):
            sent = headers.get("authorization", "")
            found = self._keys.name_of(given_key(sent))
            if found is None:
                message = _WRONG_KEY if sent else _MISSING_KEY
                raise RequestError(401, "Unauthorized", message, headers={"www-authenticate": "Bearer"})
            name = found
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self._body.bytes:
            raise self._too_large()
        if (packed := headers.get("content-encoding", "identity")) != "identity":
            message = f"A body packed with {packed} is not read: images are packed already, send them as they are."
            raise RequestError(415, "PackedBody", message)
        return name

    def _limited(self, receive: Receive, hold: Callable[[int], None]) -> Receive:
        """Count what arrives, as a chunked body has no length to look at before, and watch the clock."""
        received = 0
        deadline = asyncio.get_running_loop().time() + self._body.seconds

        async def limited() -> Message:
            nonlocal received
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError as error:
                raise self._too_slow() from error
            received += len(message.get("body", b""))
            if received > self._body.bytes:
                raise self._too_large()
            hold(received)
            return message

        return limited

    def _too_large(self) -> RequestError:
        return RequestError(413, "BodyTooLarge", f"A request may have {self._body.bytes} bytes at most.")

    def _too_slow(self) -> RequestError:
        return RequestError(408, "RequestTimeout", f"The request did not arrive within {self._body.seconds:g} seconds.")


async def _leaves_before(app: ASGIApp, scope: Scope, receive: Receive, connection: Receive, send: Send) -> bool:
    """Let the application answer unless the client leaves first, and return whether it did.

    Work for someone who is gone would keep those who wait from theirs.

    Args:
        receive: what the application reads the body from.
        connection: what tells, once the body was read, that the connection was closed.
    """
    read = asyncio.Event()

    async def noticed() -> Message:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise asyncio.CancelledError  # nobody is there to be told of an error
        if not message.get("more_body"):
            read.set()
        return message

    async def leave() -> None:
        await read.wait()
        await connection()

    answering, leaving = asyncio.ensure_future(app(scope, noticed, send)), asyncio.ensure_future(leave())
    try:
        await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not answering.done() or answering.cancelled():
            return True
        answering.result()
        return False
    finally:
        answering.cancel()
        leaving.cancel()


def _pattern(scope: Scope, code: int) -> str:
    """Return the pattern of a request's route: what users type must not become label values."""
    route, path = scope.get("route"), scope["path"]
    if code == 405:  # the route knows the path, but answers another method
        return _OTHER
    if route is not None:
        return str(getattr(route, "path", _OTHER))
    # It was refused before it was routed. A 429 to a prediction is one; all else says nothing of how the model does.
    if code != 429:
        return _OTHER
    if path in ("/", "/predict"):
        return str(path)
    return "/v2/models/{model_name}/infer" if path.endswith("/infer") else _OTHER


def _is_open(scope: Scope) -> bool:
    path: str = scope["path"]
    return scope["method"] in ("GET", "HEAD") and (path in OPEN_PATHS or path.startswith(OPEN_FOLDERS))


def error_body(error: RequestError, path: str) -> bytes:
    """Return an error's JSON: ours, or under /v2 that of the Open Inference Protocol."""
    document = {"error": error.message} if path.startswith("/v2") else {"error": error.document}
    return json.dumps(document, ensure_ascii=False).encode()


async def _refuse(error: RequestError, scope: Scope, send: Send) -> None:
    body = error_body(error, scope["path"])
    own = [(name.encode(), value.encode()) for name, value in error.headers.items()]
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *own,
    ]
    # The connection stays open, and the server throws away what is still sent: if it were closed, the answer could
    # be lost to a client that is in the middle of sending.
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
