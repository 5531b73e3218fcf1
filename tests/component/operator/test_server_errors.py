"""Servers that answer with errors or not at all: clear messages, and bounded waits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from bloomery_operator.clients import mlflow
from bloomery_operator.clients.mlflow import MlflowClient
from bloomery_operator.clients.model_server import ModelServerMetrics
from bloomery_operator.clients.trainer import TrainerClient
from bloomery_operator.domain.ports import METRICS_PORT, PROGRESS_PORT
from bloomery_operator.domain.served_model import ServedModel
from bloomery_operator.domain.verdict import Verdict
from bloomery_operator.status.workloads import PodView
from tests.unit.operator.samples import NOW

pytestmark = pytest.mark.feature("O4")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
VERSION = {"name": "flowers", "version": "3", "tags": [{"key": "bloomery.dev/uri", "value": "s3://models/3"}]}


@asynccontextmanager
async def answering(handler: Handler, *, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """Answer whatever is asked; gives the address."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    try:
        yield f"http://{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def always(text: str, *, status: int = 200, **headers: str) -> Handler:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, text=text, content_type="application/json", headers=headers)

    return answer


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"a" * 65536)


ODD = {
    "null": "null",
    "a number": "3",
    "a list": "[1]",
    "nothing": "",
    "a version without a name": '{"model_version": {"version": "1"}}',
    "a version that is no number": json.dumps({"model_version": VERSION | {"version": "latest"}}),
    "tags without a key": json.dumps({"model_version": VERSION | {"tags": [{"value": "v"}]}}),
    "no version": "{}",
    "brackets": "[" * 100_000,
}


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_any_bad_answer_of_a_registry_is_reported_in_words(text: str) -> None:
    async def scenario() -> None:
        async with answering(always(text)) as address, aiohttp.ClientSession() as session:
            client, environment = MlflowClient(session, allowed=[address]), {"MLFLOW_TRACKING_URI": address}
            verdict = await client.find(environment, "models:/flowers@champion")
            assert isinstance(verdict, Verdict)
            assert verdict.reason == "RegistryUnreachable"
            assert verdict.message.startswith("MLflow could not resolve models:/flowers@champion: ")

    asyncio.run(scenario())


def test_fields_that_are_null_count_as_not_there() -> None:
    text = json.dumps({"model_version": VERSION | {"run_id": None, "source": None, "status": None}})

    async def scenario() -> None:
        async with answering(always(text)) as address, aiohttp.ClientSession() as session:
            model = await MlflowClient(session, allowed=[address]).find(
                {"MLFLOW_TRACKING_URI": address}, "models:/flowers/3"
            )
            assert model == ServedModel(uri="s3://models/3", name="flowers", version="3")

    asyncio.run(scenario())


def test_an_endless_answer_of_a_registry_is_cut_off() -> None:
    async def scenario() -> None:
        async with answering(endless) as address, aiohttp.ClientSession() as session:
            verdict = await MlflowClient(session, allowed=[address]).find(
                {"MLFLOW_TRACKING_URI": address}, "models:/flowers/1"
            )
            assert isinstance(verdict, Verdict)
            assert f"longer than {mlflow.MAX_RESPONSE_BYTES} bytes" in verdict.message

    asyncio.run(scenario())


def test_a_registry_leads_the_operator_to_no_other_address() -> None:
    paths: list[str] = []

    async def elsewhere(request: web.Request) -> web.Response:
        paths.append(request.path)
        return web.json_response({"model_version": VERSION})

    async def scenario() -> None:
        async with answering(elsewhere) as target, aiohttp.ClientSession() as session:
            async with answering(always("{}", status=302, Location=target)) as address:
                verdict = await MlflowClient(session, allowed=[address]).find(
                    {"MLFLOW_TRACKING_URI": address}, "models:/flowers/1"
                )
            assert isinstance(verdict, Verdict)
            assert "status 302: set MLFLOW_TRACKING_URI to the address that it redirects to" in verdict.message
            assert paths == []

    asyncio.run(scenario())


def test_a_hanging_registry_gets_one_request_and_delays_no_other() -> None:
    now, requests, healthy = 100.0, 0, False

    async def hang(_: web.Request) -> web.Response:
        nonlocal requests
        requests += 1
        if not healthy:
            await asyncio.Event().wait()
        return web.json_response({"model_version": VERSION})

    async def scenario() -> None:
        nonlocal now, healthy
        async with answering(hang) as address, aiohttp.ClientSession() as session:
            client = MlflowClient(session, allowed=[address], poll_seconds=10, timeout_seconds=0.5, clock=lambda: now)
            environment = {"MLFLOW_TRACKING_URI": address}

            async def find(*numbers: int) -> list[Any]:
                return await asyncio.gather(*(client.find(environment, f"models:/m{n}@champion") for n in numbers))

            assert "no answer within" in (await find(0))[0].message
            verdicts = await find(*range(1, 20))
            assert {verdict.reason for verdict in verdicts} == {"RegistryUnreachable"}
            assert not await client.tag_served(environment, ("m", "1"), tag="served-by", variants="v1")
            assert requests == 1
            now += 11
            await find(*range(20))
            assert requests == 2, "one finds out for all"
            now += 11
            await find(*range(20))
            assert requests == 2, "and more rarely each time"
            now, healthy = now + 11, True
            assert isinstance((await find(0))[0], ServedModel)
            assert all(isinstance(model, ServedModel) for model in await find(*range(20)))

    asyncio.run(scenario())


def test_events_do_not_each_ask_the_registry_what_an_alias_means() -> None:
    now, requests = 100.0, 0

    async def answer(_: web.Request) -> web.Response:
        nonlocal requests
        requests += 1
        return web.json_response({"model_version": VERSION | {"version": requests}})

    async def scenario() -> None:
        nonlocal now
        async with answering(answer) as address, aiohttp.ClientSession() as session:
            client = MlflowClient(session, allowed=[address], poll_seconds=10, clock=lambda: now)
            environment = {"MLFLOW_TRACKING_URI": address}
            versions = []
            for seconds in (0, 5, 4.9, 0.1, 9):
                now += seconds
                model = await client.find(environment, "models:/flowers@champion")
                assert isinstance(model, ServedModel)
                versions.append(model.version)
            assert versions == ["1", "1", "1", "2", "2"]
            other = environment | {"MLFLOW_TRACKING_TOKEN": "another's"}
            model = await client.find(other, "models:/flowers@champion")
            assert isinstance(model, ServedModel)
            assert model.version == "3", "other credentials get an answer of their own"

    asyncio.run(scenario())


def pod(ip: str) -> PodView:
    """Return a running pod at an address of this machine."""
    status = {"phase": "Running", "podIP": ip}
    return PodView.of({"metadata": {"name": "a", "uid": "a"}, "spec": {}, "status": status})


@pytest.mark.parametrize("handler", [endless, always("[" * 50_000), always("[1]")], ids=["endless", "nested", "list"])
def test_odd_answers_of_pods_are_ignored(handler: Handler) -> None:
    ip = "127.66.0.1"

    async def scenario() -> None:
        async with aiohttp.ClientSession() as session:
            async with answering(handler, host=ip, port=PROGRESS_PORT):
                assert await TrainerClient(session, poll_seconds=1).read_progress(pod(ip)) is None
            async with answering(handler, host=ip, port=METRICS_PORT):
                stats = await ModelServerMetrics(session).request_stats("step", NOW, {"a": [pod(ip)]})
                assert stats["a"].requests == 0

    asyncio.run(scenario())
