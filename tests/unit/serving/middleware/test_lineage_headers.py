"""Headers that trace an answer back to its model, whatever characters the model's name has."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message, Receive, Scope, Send

from bloomery_serving.about import About
from bloomery_serving.identity import ModelIdentity
from bloomery_serving.middleware.lineage_headers import LineageHeaders
from bloomery_serving.settings import Settings


async def _answer(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


async def _receive() -> Message:
    return {"type": "http.request"}


def headers_of(model_name: str) -> dict[bytes, bytes]:
    """Return the headers of an answer by a model of this name."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    identity = ModelIdentity(digest="sha256:0", model_name=model_name, model_version="4")
    settings = Settings(model_uri="file:///model", service_name="flowers", about_file=None)
    app = LineageHeaders(_answer, about=About(settings, identity))
    asyncio.run(app({"type": "http"}, _receive, send))
    return dict(sent[0]["headers"])


@pytest.mark.feature("O7")
def test_control_characters_of_a_name_are_escaped() -> None:
    """uvicorn refuses a header with a line break, so that each answer, also of probes, would be a 500."""
    assert headers_of("flowers\r\nx-key: 1\x00\x7f")[b"x-model"] == b"flowers%0D%0Ax-key: 1%00%7F/4"


@pytest.mark.feature("S12")
def test_name_in_another_script_is_sent_as_utf_8() -> None:
    assert headers_of("花卉")[b"x-model"] == "花卉/4".encode()
