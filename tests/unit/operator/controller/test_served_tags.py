"""Removal of the tags of deleted services, independent of all other work."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from bloomery_operator.cluster.apply_cache import ApplyCache
from bloomery_operator.cluster.client import Listing
from bloomery_operator.cluster.kinds import INFERENCE_SERVICES, JOBS, ObjectKey, ObjectReference, ResourceKind
from bloomery_operator.cluster.object_cache import ObjectCache
from bloomery_operator.controller.controller import Controller
from bloomery_operator.metrics import OperatorMetrics
from bloomery_operator.reconcile import Context, served_tags
from bloomery_operator.reconcile.served_tags import ServedTags
from tests.unit.operator.samples import Manifest, metadata, settings


class Namespaces:
    """A cluster with some namespaces and nothing that could be read in them."""

    def __init__(self, *names: str) -> None:
        self._names = names

    async def get(self, *_: Any) -> Manifest | None:
        return None

    async def list(self, kind: ResourceKind, **_: Any) -> Listing:
        services = ({"metadata": metadata(namespace=name)} for name in self._names)
        return Listing(tuple(services) if kind is INFERENCE_SERVICES else (), versions=("1000",))


class Registry:
    """Records the namespaces of its requests; hangs or fails for one of them."""

    def __init__(self, *, hangs: str = "", fails: str = "") -> None:
        self.requests: list[str] = []
        self._hangs, self._fails = hangs, fails

    async def list_served(self, _: Mapping[str, str], namespace: str) -> list[tuple[str, tuple[str, str]]]:
        self.requests.append(namespace)
        if namespace == self._hangs:
            await asyncio.Event().wait()
        if namespace == self._fails:
            raise RuntimeError("no")
        return []


def context(cluster: Namespaces, registry: Registry, apply_cache: ApplyCache | None = None) -> Context:
    async def silent(*_: Any) -> Any:
        return None

    return Context(
        cluster=cluster,  # type: ignore[arg-type]  # what is tested here only reads
        object_cache=ObjectCache(),
        settings=settings(),
        read_progress=silent,
        stop_trainer=silent,
        registry=registry,  # type: ignore[arg-type]
        servers=silent,  # type: ignore[arg-type]
        apply_cache=apply_cache or ApplyCache(),
    )


async def turn() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_registry_that_hangs_or_fails_delays_no_other_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_tags, "NAMESPACE_SECONDS", 0.01)
    registry = Registry(hangs="one", fails="two")

    async def tidy() -> None:
        tags = ServedTags(context(Namespaces(), registry))
        for namespace in ("one", "two", "three", "one"):
            tags.look_at(namespace)
        task = asyncio.create_task(tags.tidy_forever())
        async with asyncio.timeout(5):
            while len(registry.requests) < 3:
                await asyncio.sleep(0.01)
        await turn()
        task.cancel()

    asyncio.run(tidy())
    assert registry.requests == ["one", "two", "three"]


def test_resync_does_not_wait_for_a_hanging_registry() -> None:
    registry = Registry(hangs="one")

    async def resync() -> None:
        controller = Controller(
            context(Namespaces("one"), registry), OperatorMetrics(), kinds=(INFERENCE_SERVICES, JOBS)
        )
        task = asyncio.create_task(controller._served_tags.tidy_forever())
        for _ in range(2):
            await asyncio.wait_for(controller.resync(), 5)
            await turn()
        task.cancel()

    asyncio.run(resync())
    assert registry.requests == ["one"]


def test_deleted_service_is_checked_once() -> None:
    apply_cache, registry = ApplyCache(), Registry()
    key = ObjectKey("demo", "flowers")
    child = {"metadata": metadata("child"), "spec": {}}
    apply_cache.record(("InferenceService", key), JOBS, child, child)

    async def reconcile() -> None:
        controller = Controller(context(Namespaces(), registry, apply_cache), OperatorMetrics(), kinds=())
        task = asyncio.create_task(controller._served_tags.tidy_forever())
        for _ in range(3):
            assert await controller._reconcile(ObjectReference(INFERENCE_SERVICES, key)) is None
            await turn()
        task.cancel()

    asyncio.run(reconcile())
    assert registry.requests == ["demo"]
