"""Adds to every answer the headers that trace it back to its model."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bloomery_serving.about import About
from bloomery_serving.identity import ModelIdentity


class LineageHeaders:
    """Adds the same headers to every answer, refusals and errors included."""

    def __init__(self, app: ASGIApp, *, about: About) -> None:
        self._app = app
        self._about = about
        self._identity: ModelIdentity | None = None
        self._headers: list[tuple[bytes, bytes]] = []

    def _current(self) -> list[tuple[bytes, bytes]]:
        identity = self._about.identity
        if identity is not self._identity:
            # Names in other scripts go as UTF-8, as browsers and curl show them.
            self._headers = [(name.encode("latin-1"), value.encode()) for name, value in identity.headers.items()]
            self._identity = identity
        return self._headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request with the headers."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *self._current()]}
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)
