"""Renders the refusals of the middleware further in, which no route has seen."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bloomery_serving.api.errors import RequestError, error_response


class Refusals:
    """Answers a ``RequestError`` as the routes' own exception handlers do."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or say why it is refused."""
        is_answered = False

        async def send_and_note(message: Message) -> None:
            nonlocal is_answered
            is_answered = True
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except asyncio.CancelledError:
            # Only a server that stops cancels requests from outside: their time to be finished is over.
            if is_answered:
                raise
            await error_response(_stopping(), scope["path"])(scope, receive, send)
        except RequestError as error:
            # The connection stays open, and the server discards the rest of the body: if it were closed, the answer
            # could be lost to a client that is in the middle of sending.
            await error_response(error, scope["path"])(scope, receive, send)


def _stopping() -> RequestError:
    message = "The server is stopping, and could not finish this request in time; send it again."
    return RequestError(503, "ServerStopping", message, headers={"retry-after": "1", "connection": "close"})
