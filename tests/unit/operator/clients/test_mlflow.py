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
NEWEST = "max_results=20&order_by=version_number DESC"
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
                address = f"http://127.0.0.1:{runner.addresses[0][1]}"
                client = MlflowClient(session, allowed=[address], poll_seconds=10, clock=lambda: 100.0)
                yield client, {"MLFLOW_TRACKING_URI": f"{address}/"}
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
            f"model-versions/search?filter=name = 'flowers' and tag.`bloomery.dev/version-label` = 'spring'&{NEWEST}",
        ),
        ("runs:/abc/model", {"model_versions": [VERSION]}, f"model-versions/search?filter=run_id = 'abc'&{NEWEST}"),
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
    assert response.get("message", "-") not in verdict.message
    assert (f"status {status}" in verdict.message) == (status in (400, 500))


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


def test_alias_that_has_just_moved_is_looked_up_again() -> None:
    server = Server({"model_version": VERSION}, {"model_version": VERSION | {"version": "4"}})

    async def scenario(client: MlflowClient, environment: dict[str, str]) -> list[ServedModel | Verdict]:
        return [
            await client.find(environment, "models:/flowers@best"),
            await client.find(environment, "models:/flowers@best", use_cache=False),
            await client.find(environment, "models:/flowers@best"),
        ]

    assert [model.version for model in run(server, scenario)] == ["3", "4", "4"]


def test_served_tag_is_set_and_removed() -> None:
    server = Server({})

    async def scenario(client: MlflowClient, environment: dict[str, str]) -> None:
        assert await client.tag_served(environment, ("flowers", "3"), tag="served-by.shop", variants="v1,v2")
        assert await client.tag_served(environment, ("flowers", "3"), tag="served-by.shop", variants="")
        assert not await client.tag_served({}, ("flowers", "3"), tag="served-by.shop", variants="v1")

    run(server, scenario)
    tag = {"name": "flowers", "version": "3", "key": "served-by.shop"}
    assert [request.method for request in server.requests] == ["POST", "DELETE"]
    assert server.bodies == [tag | {"value": "v1,v2"}, tag]


def find(address: str, allowed: list[str]) -> str:
    """Return the reason that the client gives for an address, which no server has."""

    async def scenario() -> str:
        async with aiohttp.ClientSession() as session:
            client = MlflowClient(session, allowed=allowed, timeout_seconds=1)
            verdict = await client.find({"MLFLOW_TRACKING_URI": address}, "models:/flowers/1")
            assert isinstance(verdict, Verdict)
            assert not await client.tag_served({"MLFLOW_TRACKING_URI": address}, ("a", "1"), tag="b", variants="c")
            return verdict.reason

    return asyncio.run(scenario())


@pytest.mark.feature("O7")
@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:9",
        "http://127.0.0.1:9/",
        " http://127.0.0.1:9/mlflow/\n",
        "HTTPS://127.0.0.1:9",
        "https://MLflow.Invalid",
        "https://mlflow.invalid:443/",
    ],
)
def test_listed_address_is_contacted_in_whatever_form(address: str) -> None:
    listed = ["http://127.0.0.1:9", "http://127.0.0.1:9/mlflow", "https://mlflow.invalid", "not an address"]
    expected = "RegistryNotConfigured" if address.startswith("HTTPS") else "RegistryUnreachable"
    assert find(address, listed) == expected


@pytest.mark.feature("O7")
@pytest.mark.parametrize(
    "address",
    [
        "http://10.0.0.5:8080/admin",
        "http://127.0.0.1:10",
        "http://127.0.0.1:9/admin",
        "http://127.0.0.1:9/admin?id=1#",
        "http://127.0.0.1:9?id=1",
        "http://127.0.0.1:9#",
        "http://127.0.0.1:9@10.0.0.5",
        "http://user:password@127.0.0.1:9",
        "http://127.0.0.1:9\\@10.0.0.5",
        "http://127.0.0.1:9/%2e%2e/admin",
        "http://127.0.0.1:9\r\nX: y",
        "https://127.0.0.1:9",
        "http://",
    ],
)
def test_any_other_address_is_not_contacted(address: str) -> None:
    assert find(address, ["http://127.0.0.1:9"]) == "MLflowNotAllowed"
