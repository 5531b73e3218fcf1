"""Requests of the MLflow client, and the answers that it makes of the responses, with a server on this machine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote

import aiohttp
import pytest
from aiohttp import web

from bloomery_operator.clients.mlflow import MlflowClient
from bloomery_operator.domain.served_model import ServedModel
from bloomery_operator.domain.verdict import Verdict

VERSION = {"name": "flowers", "version": "3", "tags": [{"key": "bloomery.dev/uri", "value": "s3://models/3"}]}
SERVED = ServedModel(uri="s3://models/3", name="flowers", version="3")


class Server:
    """Answers every request with the next response, and records the requests."""

    def __init__(self, *responses: Any, status: int = 200) -> None:
        self._responses = responses
        self._status = status
        self.requests: list[web.Request] = []
        self.bodies: list[Any] = []

    async def answer(self, request: web.Request) -> web.Response:
        response = self._responses[min(len(self.requests), len(self._responses) - 1)]
        self.requests.append(request)
        self.bodies.append(await request.json() if request.can_read_body else None)
        return web.json_response(response, status=self._status)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[tuple[MlflowClient, dict[str, str]]]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            async with aiohttp.ClientSession() as session:
                client = MlflowClient(session, poll_seconds=10, clock=lambda: 100.0)
                yield client, {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{runner.addresses[0][1]}/"}
        finally:
            await runner.cleanup()


def run(server: Server, scenario: Callable[[MlflowClient, dict[str, str]], Coroutine[Any, Any, Any]]) -> Any:
    async def connected() -> Any:
        async with server.client() as (client, environment):
            return await scenario(client, environment)

    return asyncio.run(connected())


@pytest.mark.parametrize(
    ("reference", "response", "path"),
    [
        ("models:/flowers/3", {"model_version": VERSION}, "model-versions/get?name=flowers&version=3"),
        ("models:/flowers@best", {"model_version": VERSION}, "registered-models/alias?name=flowers&alias=best"),
        (
            "models:/flowers/spring",
            {"model_versions": [VERSION | {"version": "2"}, VERSION]},
            "model-versions/search?filter=name = 'flowers' and tag.`bloomery.dev/version-label` = 'spring'",
        ),
        ("runs:/abc/model", {"model_versions": [VERSION]}, "model-versions/search?filter=run_id = 'abc'"),
    ],
)
def test_reference_is_resolved_to_a_model(reference: str, response: Any, path: str) -> None:
    server = Server(response)
    assert run(server, lambda client, environment: client.find(environment, reference)) == SERVED
    assert unquote(server.requests[0].raw_path) == f"/api/2.0/mlflow/{path}"


@pytest.mark.parametrize(
    ("response", "status", "reason"),
    [
        ({"message": "no such model"}, 404, "ModelNotFound"),
        ({"message": "no such run"}, 400, "ModelNotFound"),
        ({"message": "database is locked"}, 500, "RegistryUnreachable"),
        ({"model_version": VERSION | {"status": "PENDING_REGISTRATION"}}, 200, "ModelNotReady"),
        ({}, 200, "RegistryUnreachable"),
    ],
)
def test_unresolved_reference_gives_the_reason(response: Any, status: int, reason: str) -> None:
    server = Server(response, status=status)
    verdict = run(server, lambda client, environment: client.find(environment, "models:/flowers/3"))
    assert isinstance(verdict, Verdict)
    assert verdict.reason == reason
    assert status == 404 or response.get("message", "") in verdict.message


def test_unset_tracking_uri_is_reported() -> None:
    verdict = run(Server({}), lambda client, _: client.find({}, "models:/flowers/3"))
    assert isinstance(verdict, Verdict)
    assert verdict.reason == "RegistryNotConfigured"


def test_resolved_reference_is_cached_for_each_user() -> None:
    server = Server({"model_version": VERSION})

    async def scenario(client: MlflowClient, environment: dict[str, str]) -> None:
        for _ in range(2):
            await client.find(environment, "models:/flowers@best")
        assert len(server.requests) == 1
        await client.find(environment | {"MLFLOW_TRACKING_TOKEN": "other"}, "models:/flowers@best")
        assert [request.headers.get("Authorization") for request in server.requests] == [None, "Bearer other"]

    run(server, scenario)


def test_served_tag_is_set_and_removed() -> None:
    server = Server({})

    async def scenario(client: MlflowClient, environment: dict[str, str]) -> None:
        assert await client.tag_served(environment, ("flowers", "3"), service="demo/shop", variants="v1,v2")
        assert await client.tag_served(environment, ("flowers", "3"), service="demo/shop", variants="")
        assert not await client.tag_served({}, ("flowers", "3"), service="demo/shop", variants="v1")

    run(server, scenario)
    tag = {"name": "flowers", "version": "3", "key": "bloomery.dev/served-by.demo.shop"}
    assert [request.method for request in server.requests] == ["POST", "DELETE"]
    assert server.bodies == [tag | {"value": "v1,v2"}, tag]


def test_served_tags_of_a_namespace_are_listed_page_by_page() -> None:
    def tagged(service: str, version: str) -> dict[str, Any]:
        tag = {"key": f"bloomery.dev/served-by.{service}", "value": "v1"}
        return {"name": "flowers", "version": version, "tags": [tag]}

    server = Server(
        {"model_versions": [tagged("demo.shop", "1"), tagged("prod.shop", "2")], "next_page_token": "a b"},
        {"model_versions": [tagged("demo.market", "3")]},
    )
    served = run(server, lambda client, environment: client.list_served(environment, "demo"))
    assert served == [("demo/shop", ("flowers", "1")), ("demo/market", ("flowers", "3"))]
    assert [request.query["page_token"] for request in server.requests] == ["", "a b"]
