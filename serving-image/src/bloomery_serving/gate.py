"""What stands before every request: the key and the length, before any body is read; and what is on every answer."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bloomery_serving.auth import KeyRing, given_key
from bloomery_serving.errors import RequestError
from bloomery_serving.metrics import Metrics

OPEN_PATHS = ("/v2/health/live", "/v2/health/ready", "/openapi.json")
NO_KEY = "none"


class Gate:
    """ASGI middleware: keys, body limits, lineage headers and metrics."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        headers: Mapping[str, str],
        max_body_bytes: int,
        keys: KeyRing | None,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._headers = [(name.encode("latin-1"), _latin(value)) for name, value in headers.items()]
        self._max_body_bytes = max_body_bytes
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
            await self._app(scope, self._limited(receive), send_with_headers)
        except RequestError as error:
            await _refuse(error, scope, send_with_headers)
        finally:
            # The route's pattern, not the path: what users type must not become label values.
            route = scope.get("route")
            pattern = getattr(route, "path", "other")
            self._metrics.count(pattern, code, key, time.perf_counter() - start)

    def _admit(self, scope: Scope) -> str:
        """Return the name of the request's key; refuse it without one, or with a body that is too large."""
        headers = Headers(scope=scope)
        name = NO_KEY
        if self._keys is not None and scope["path"] not in OPEN_PATHS:
            found = self._keys.name_of(given_key(headers.get("authorization", "")))
            if found is None:
                raise RequestError(
                    401,
                    "Unauthorized",
                    "This service needs a key: send it as 'Authorization: KEY' or 'Authorization: Bearer KEY'.",
                    headers={"www-authenticate": "Bearer"},
                )
            name = found
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self._max_body_bytes:
            raise self._too_large()
        return name

    def _limited(self, receive: Receive) -> Receive:
        """Count what arrives: a chunked body has no length to look at before."""
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_body_bytes:
                raise self._too_large()
            return message

        return limited

    def _too_large(self) -> RequestError:
        return RequestError(413, "BodyTooLarge", f"A request may have {self._max_body_bytes} bytes at most.")


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
        # The body was not read: the connection can not serve another request.
        (b"connection", b"close"),
        *own,
    ]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _latin(value: str) -> bytes:
    """Encode a header's value; names in other scripts go as UTF-8, as browsers and curl show them."""
    return value.encode()
