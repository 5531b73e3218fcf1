"""Namespaces that use one key are named in the log."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Mapping
from typing import Any

import aiohttp
import pytest

from bloomery_operator.cluster.kinds import DATASETS, ObjectKey, ResourceKind
from bloomery_operator.cluster.object_cache import ObjectCache
from bloomery_operator.controller.shared_keys import SharedKeys
from bloomery_operator.reconcile import Context
from tests.unit.operator.samples import Manifest, metadata, settings

pytestmark = pytest.mark.feature("O7")

BUNDLED = {"MLFLOW_TRACKING_URI": "http://bloomery-mlflow.bloomery-system.svc:5000"}


class Secrets:
    """The storage Secrets of some namespaces, each with an object of ours."""

    def __init__(self, secrets: Mapping[str, Mapping[str, str]]) -> None:
        self.secrets = dict(secrets)
        self.object_cache = ObjectCache()
        for namespace in secrets:
            self.object_cache.put(DATASETS, {"metadata": metadata(namespace=namespace)})

    async def get(self, kind: ResourceKind, key: ObjectKey) -> Manifest | None:
        assert (kind.plural, key.name) == ("secrets", "bloomery-storage")
        values = self.secrets[key.namespace]
        return {"data": {name: base64.b64encode(value.encode()).decode() for name, value in values.items()}}

    def checks(self) -> SharedKeys:
        async def silent(*_: Any) -> Any:
            return None

        context = Context(
            cluster=self,  # type: ignore[arg-type]
            object_cache=self.object_cache,
            settings=settings(),
            read_progress=silent,
            stop_trainer=silent,
            registry=silent,  # type: ignore[arg-type]
            servers=silent,  # type: ignore[arg-type]
        )
        return SharedKeys(context)


def test_namespaces_with_one_mlflow_or_one_key_are_named_once(caplog: pytest.LogCaptureFixture) -> None:
    key = {"AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "hidden"}
    world = Secrets({"a": BUNDLED | key, "b": BUNDLED, "c": key, "d": {}, "e": {}})
    checks = world.checks()
    with caplog.at_level(logging.WARNING):
        asyncio.run(checks.check())
        asyncio.run(checks.check())
    assert [record.getMessage() for record in caplog.records] == [
        "2 namespaces use the same address and key of MLflow, so they must trust each other: a, b",
        "2 namespaces use the same address and key of the store, so they must trust each other: a, c",
    ]
    caplog.clear()
    world.secrets["d"] = BUNDLED
    with caplog.at_level(logging.WARNING):
        asyncio.run(checks.check())
    assert [record.args for record in caplog.records] == [(3, "MLflow", "a, b, d")]


def test_namespaces_with_users_of_their_own_are_apart(caplog: pytest.LogCaptureFixture) -> None:
    users = {name: BUNDLED | {"MLFLOW_TRACKING_USERNAME": name, "AWS_ACCESS_KEY_ID": name} for name in ("a", "b")}
    with caplog.at_level(logging.WARNING):
        asyncio.run(Secrets(users).checks().check())
    assert caplog.records == []


@pytest.mark.parametrize("error", [TimeoutError(), aiohttp.ServerDisconnectedError()])
def test_api_server_that_does_not_answer_ends_no_checks(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    world = Secrets({"a": BUNDLED})

    async def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(world, "get", fail)

    async def scenario() -> None:
        checking = asyncio.create_task(world.checks().check_forever())
        await asyncio.wait([checking], timeout=0.1)
        assert not checking.done()
        checking.cancel()

    asyncio.run(scenario())
