"""Brings a request's method and path into the form that the routes know."""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Receive, Scope, Send

_SLASHES = re.compile("/{2,}")


class RequestLine:
    """Takes several slashes in a row for one, as gateways do, and answers HEAD at every path that answers GET."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; the server leaves out the body of an answer to HEAD."""
        if scope["type"] == "http":
            if scope["method"] == "HEAD":
                scope = {**scope, "method": "GET"}
            if "//" in scope["path"]:
                # Before the key is asked for: the paths that need none are compared in this form.
                scope = {**scope, "path": _SLASHES.sub("/", scope["path"])}
        await self._app(scope, receive, send)
