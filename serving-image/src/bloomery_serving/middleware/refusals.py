"""Renders the refusals of the middleware further in, which no route has seen."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from bloomery_serving.api.errors import RequestError, error_response


class Refusals:
    """Answers a ``RequestError`` as the routes' own exception handlers do."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or say why it is refused."""
        try:
            await self._app(scope, receive, send)
        except RequestError as error:
            # The connection stays open, and the server discards the rest of the body: if it were closed, the answer
            # could be lost to a client that is in the middle of sending.
            await error_response(error, scope["path"])(scope, receive, send)
