"""Cancels the work for a client that has closed its connection."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a request whose client left before it was answered: no fault of the server's."""


class ClientDisconnected(Exception):
    """The client left before its request was answered."""


class CancelOnDisconnect:
    """Cancels a prediction whose client left: work for it would delay the clients that wait."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request unless its client leaves first.

        Raises:
            ClientDisconnected: it left.
        """
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        is_read = asyncio.Event()

        async def receive_body() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise asyncio.CancelledError  # nobody is there to get an error
            if not message.get("more_body"):
                is_read.set()
            return message

        async def wait_for_disconnect() -> None:
            await is_read.wait()
            await receive()  # after the body, it returns once the connection is closed

        answering = asyncio.ensure_future(self._app(scope, receive_body, send))
        leaving = asyncio.ensure_future(wait_for_disconnect())
        try:
            await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                answering.cancel()
                # The request counts until the work for it has ended: a worker in the middle of it cannot be stopped.
                await asyncio.wait((answering,))
                raise ClientDisconnected
            if answering.cancelled():
                raise ClientDisconnected
            answering.result()
        finally:
            answering.cancel()
            leaving.cancel()
