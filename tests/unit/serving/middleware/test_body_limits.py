"""Bodies that arrive slowly: they need a least rate, long before the time for the whole request is over."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message, Receive, Scope, Send

from bloomery_serving.api.errors import RequestError
from bloomery_serving.middleware import body_limits
from bloomery_serving.middleware.body_limits import BodyLimits

POST: Scope = {"type": "http", "method": "POST", "path": "/predict", "headers": []}
LIMIT_SECONDS = 60.0


@pytest.mark.feature("O7")
@pytest.mark.parametrize(("pause_seconds", "arrives"), [(0.01, True), (2.5, False)])
def test_body_needs_a_least_rate(monkeypatch: pytest.MonkeyPatch, pause_seconds: float, arrives: bool) -> None:
    monkeypatch.setattr(body_limits, "FIRST_SECONDS", 2.0)
    received = bytearray()
    parts = 10

    async def receive() -> Message:
        await asyncio.sleep(pause_seconds)
        return {"type": "http.request", "body": b"x" * 50, "more_body": len(received) < 50 * (parts - 1)}

    async def app(_scope: Scope, receive: Receive, _send: Send) -> None:
        is_complete = False
        while not is_complete:
            message = await receive()
            received.extend(message["body"])
            is_complete = not message["more_body"]

    async def send(_message: Message) -> None:
        raise AssertionError

    async def request() -> None:
        await BodyLimits(app, max_bytes=10_000, max_seconds=LIMIT_SECONDS)(POST, receive, send)

    if arrives:
        asyncio.run(request())
        assert len(received) == 50 * parts
    else:
        with pytest.raises(RequestError) as refused:
            asyncio.run(request())
        assert (refused.value.status, refused.value.code) == (408, "RequestTimeout")
