"""Creation of a Retraining's TrainingJob, with an API server that knows more than the cache."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bloomery_operator.api import Retraining
from bloomery_operator.api.retraining import Trigger
from bloomery_operator.cluster.kinds import DATASETS, RETRAININGS, TRAINING_JOBS, ObjectKey, ResourceKind
from bloomery_operator.cluster.object_cache import ObjectCache
from bloomery_operator.domain.trigger import training_name
from bloomery_operator.manifests.retraining import build_training_job
from bloomery_operator.reconcile import Context
from bloomery_operator.reconcile.retraining import reconcile
from tests.unit.operator.samples import NOW, Manifest, metadata, prepared_status, retraining, settings

pytestmark = pytest.mark.feature("S23")

KEY = ObjectKey("demo", "flowers")
SPEC = retraining(schedule="0 11 * * *", onNewVersion=True).spec.model_dump(
    mode="json", by_alias=True, exclude_unset=True
)
"""Due an hour before NOW, and for the Dataset's version."""


class ApiServer:
    """Objects by kind and name, and the names of what was created."""

    def __init__(self) -> None:
        self.objects: dict[tuple[ResourceKind, str], Manifest] = {(RETRAININGS, "flowers"): manifest()}
        self.created: list[str] = []
        self.status: Manifest = {}

    async def get(self, kind: ResourceKind, key: ObjectKey) -> Manifest | None:
        return self.objects.get((kind, key.name))

    async def create(self, manifest: Manifest) -> Manifest | None:
        if manifest["kind"] == "Event":
            return manifest
        name = manifest["metadata"]["name"]
        if (TRAINING_JOBS, name) in self.objects:
            return None
        self.created.append(name)
        self.objects[TRAINING_JOBS, name] = as_stored(manifest)
        return manifest

    async def apply_status(self, manifest: Manifest) -> Manifest:
        self.status = manifest["status"]
        return manifest


def manifest(**meta: Any) -> Manifest:
    return {"apiVersion": "bloomery.dev/v1alpha1", "kind": "Retraining", "metadata": metadata(**meta), "spec": SPEC}


def as_stored(made: Manifest) -> Manifest:
    return made | {"metadata": metadata() | made["metadata"]}


def training(number: int = 1, **trigger: Any) -> Manifest:
    """Return a TrainingJob that a former process made."""
    made = build_training_job(Retraining.parse(manifest()), Trigger(number=number, cause="c", **trigger), None)
    return as_stored(made)


def reconcile_once(server: ApiServer) -> None:
    """Reconcile with a cache that knows a Dataset and no TrainingJob."""
    cache = ObjectCache()
    cache.put(RETRAININGS, manifest())
    flowers = {"metadata": metadata(), "spec": {"source": {"uri": "s3://flowers/raw"}}, "status": prepared_status()}
    cache.put(DATASETS, flowers)
    context = Context(
        cluster=server,  # type: ignore[arg-type]  # a reconcile of a Retraining does nothing else
        object_cache=cache,
        settings=settings(),
        read_progress=_unused,
        stop_trainer=_unused,
        registry=_unused,  # type: ignore[arg-type]
        servers=_unused,  # type: ignore[arg-type]
        now=lambda: NOW,
    )
    asyncio.run(reconcile(context, KEY))


async def _unused(*_: Any) -> Any:
    raise AssertionError


def test_a_training_that_is_due_is_made_and_recorded() -> None:
    server = ApiServer()
    reconcile_once(server)
    (name,) = server.created
    assert (server.status["active"], server.status["trainings"]) == (name, 1)
    assert server.status["lastScheduleTime"] == "2026-05-01T11:00:00Z"


@pytest.mark.parametrize("live", [manifest(resourceVersion="101"), manifest(uid="another"), None])
def test_nothing_is_made_for_a_retraining_that_changed_or_is_gone(live: Manifest | None) -> None:
    server = ApiServer()
    server.objects.pop((RETRAININGS, "flowers"))
    if live is not None:
        server.objects[RETRAININGS, "flowers"] = live
    reconcile_once(server)
    assert server.created == []


def test_training_of_a_former_process_keeps_its_own_trigger() -> None:
    server, made = ApiServer(), training(schedule_time=NOW.replace(hour=10))
    server.objects[TRAINING_JOBS, made["metadata"]["name"]] = made
    reconcile_once(server)
    assert server.created == []
    assert server.status["active"] == made["metadata"]["name"]
    assert server.status["lastScheduleTime"] == "2026-05-01T10:00:00Z"


def test_a_name_that_something_else_has_is_reported() -> None:
    server, made = ApiServer(), training()
    made["metadata"] |= {"ownerReferences": []}
    server.objects[TRAINING_JOBS, training_name(Retraining.parse(manifest()), 1)] = made
    reconcile_once(server)
    assert server.created == []
    ready = next(c for c in server.status["conditions"] if c["type"] == "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "NameTaken")
