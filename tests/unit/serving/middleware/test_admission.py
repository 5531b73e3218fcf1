"""Admission control: places are free again before the client knows that its request has ended."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import CollectorRegistry, Gauge
from starlette.types import Message, Receive, Scope, Send

from bloomery_serving.middleware.admission import Admission, AdmissionControl, AdmissionLimits

pytestmark = pytest.mark.feature("O7")

SCOPE: Scope = {"type": "http", "method": "POST", "path": "/predict", "headers": []}
BODY: Message = {"type": "http.request", "body": b"12345", "more_body": False}


def new_control() -> AdmissionControl:
    gauge = Gauge("in_flight", "Requests.", registry=CollectorRegistry())
    return AdmissionControl(AdmissionLimits(receiving=8, waiting=8, bytes=100), gauge=gauge)


def held(control: AdmissionControl) -> tuple[int, int, int]:
    return control.receiving.total, control.waiting.total, control.bytes.total


def answer(control: AdmissionControl, *, reads_first: bool) -> list[tuple[int, int, int]]:
    """Answer a request; return what was held when the last of the answer was sent, and at the end."""
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if reads_first:
            await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await send({"type": "http.response.body", "body": b"b"})
        await receive()

    async def receive() -> Message:
        return BODY

    async def send(message: Message) -> None:
        seen.append(held(control))

    asyncio.run(Admission(app, control=control)(dict(SCOPE), receive, send))
    return [*seen[1:], held(control)]


def test_places_are_free_before_the_end_of_an_answer() -> None:
    assert answer(new_control(), reads_first=True) == [(0, 1, 5), (0, 0, 0), (0, 0, 0)]


def test_rest_of_a_body_that_was_answered_already_takes_no_place() -> None:
    assert answer(new_control(), reads_first=False) == [(1, 0, 0), (0, 0, 0), (0, 0, 0)]
