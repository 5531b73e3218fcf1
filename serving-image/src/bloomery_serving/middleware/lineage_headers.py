"""Adds to every answer the headers that trace it back to its model."""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bloomery_serving.about import About
from bloomery_serving.identity import ModelIdentity

_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")


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
            headers = identity.headers.items()
            self._headers = [(name.encode("latin-1"), _escape(value).encode()) for name, value in headers]
            self._identity = identity
        return self._headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request with the headers."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *self._current()]}
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)


def _escape(value: str) -> str:
    """Return a header's value without line breaks, with which no answer could be sent; a model's name may have one."""
    return _CONTROL_CHARACTER.sub(lambda character: f"%{ord(character[0]):02X}", value)
