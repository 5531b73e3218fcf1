"""Lookups of Jobs and their pods: what is read live, and how often."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from bloomery_operator.cluster.client import Listing
from bloomery_operator.cluster.kinds import JOBS, PODS, SECRETS, TRAINING_JOBS, ObjectKey, ResourceKind
from bloomery_operator.cluster.object_cache import ObjectCache
from bloomery_operator.reconcile import Context, trainingjob
from bloomery_operator.reconcile.lookups import observe_job
from bloomery_operator.status.trainingjob import TrainingJobObservation
from bloomery_operator.status.workloads import JobView
from tests.unit.operator.samples import NOW, Manifest, dataset, job, metadata, pod, settings, training_job

REFUSED = {"metadata": {"creationTimestamp": "2026-05-01T11:59:00Z"}, "message": "failed quota: cpus"}


class Cluster:
    """A cluster with Events and Secrets that records what is listed and deleted."""

    def __init__(self) -> None:
        self.listed: list[str] = []
        self.deleted: list[str] = []
        self.token = "dG9rZW4="
        self.release = "0.3.0"
        self.version = "100"

    async def list(self, kind: ResourceKind, **_: Any) -> Listing:
        self.listed.append(kind.plural)
        return Listing((REFUSED,) if kind.plural == "events" else (), versions=("1",))

    async def get(self, kind: ResourceKind, key: ObjectKey) -> Manifest | None:
        if kind is TRAINING_JOBS:
            return {"metadata": metadata(resourceVersion=self.version)}
        assert kind is SECRETS
        by_release = {
            "0.3.0": ("flowers-train-x", "BLOOMERY_STOP_TOKEN"),
            "0.2.0": ("flowers-train", "stop-token"),
        }
        name, entry = by_release[self.release]
        return {"data": {entry: self.token}} if key.name == name else None

    async def delete(self, kind: ResourceKind, key: ObjectKey, *, uid: str | None = None) -> None:
        del kind, uid
        self.deleted.append(key.name)


def context(cluster: Cluster, *manifests: tuple[ResourceKind, Manifest], accepts_stop: bool = True) -> Context:
    async def silent(*_: Any) -> Any:
        return None

    async def stop(*_: Any) -> bool:
        return accepts_stop

    object_cache = ObjectCache()
    for kind, manifest in manifests:
        object_cache.put(kind, manifest)
    return Context(
        cluster=cluster,  # type: ignore[arg-type]  # what is tested here does nothing else
        object_cache=object_cache,
        settings=settings(),
        read_progress=silent,
        stop_trainer=stop,
        registry=silent,  # type: ignore[arg-type]
        servers=silent,  # type: ignore[arg-type]
        now=lambda: NOW,
    )


def owned(manifest: Manifest, name: str, owner_uid: str) -> Manifest:
    reference = {"uid": owner_uid, "controller": True}
    return manifest | {"metadata": manifest["metadata"] | {"name": name, "ownerReferences": [reference]}}


def prepare_job(**fields: Any) -> Manifest:
    return owned(job(spec_hash="x", **fields), "flowers-prepare", "uid-of-flowers")


def observe(at: Context, *, needs_result: bool = True) -> JobView:
    view = asyncio.run(observe_job(at, dataset(), "prepare", needs_result=needs_result))
    assert view is not None
    return view


@pytest.mark.feature("O6")
def test_pods_that_are_gone_for_good_are_listed_once() -> None:
    cluster = Cluster()
    at = context(cluster, (JOBS, prepare_job(ended="Complete")))
    assert not observe(at, needs_result=False).termination_result
    assert cluster.listed == []
    for _ in range(3):
        assert observe(at).result_pod_is_gone
    assert cluster.listed == ["pods"]


@pytest.mark.feature("O6")
def test_job_without_pods_for_a_while_gets_the_rejection() -> None:
    cluster = Cluster()
    assert observe(context(cluster, (JOBS, prepare_job()))).rejection == "failed quota: cpus"
    young = prepare_job()
    young["metadata"]["creationTimestamp"] = f"{NOW - timedelta(seconds=9):%FT%TZ}"
    cluster.listed.clear()
    assert observe(context(cluster, (JOBS, young))).rejection == ""
    assert cluster.listed == []


@pytest.mark.feature("O6")
def test_rejection_before_the_newest_pod_is_outdated() -> None:
    failed = owned(pod("Failed", exit_code=1), "flowers-prepare-0", "uid-of-flowers-job")
    failed["metadata"]["creationTimestamp"] = "2026-05-01T11:59:30Z"
    assert observe(context(Cluster(), (JOBS, prepare_job()), (PODS, failed))).rejection == ""


@pytest.mark.feature("T8")
@pytest.mark.parametrize("release", ["0.2.0", "0.3.0"])
def test_job_of_the_release_before_can_be_stopped(release: str) -> None:
    cluster = Cluster()
    cluster.release = release
    view = JobView.of(job(spec_hash="x") | {"metadata": job(spec_hash="x")["metadata"] | {"name": "flowers-train"}}, [])
    token = trainingjob._read_stop_token(context(cluster), training_job({"stop": True}), view)
    assert asyncio.run(token) == "token"


@pytest.mark.feature("T8")
@pytest.mark.parametrize(
    ("accepts", "age", "token", "reason"),
    [
        (True, 3600, "dG9rZW4=", None),
        (False, 59, "dG9rZW4=", None),
        (False, 60, "dG9rZW4=", "TrainerUnreachable"),
        (True, 3600, "/w==", "TrainerUnreachable"),
    ],
    ids=["accepted", "just started", "out of reach", "token changed by people"],
)
def test_stop_that_does_not_reach_the_trainer_is_shown(accepts: bool, age: int, token: str, reason: str | None) -> None:
    running = pod("Running")
    running["metadata"]["creationTimestamp"] = f"{NOW - timedelta(seconds=age):%FT%TZ}"
    observation = TrainingJobObservation(
        training_job=training_job({"stop": True}),
        model_uri="s3://b/model",
        job=JobView.of(job(spec_hash="x"), [running]),
    )
    cluster = Cluster()
    cluster.token = token
    verdict = asyncio.run(trainingjob._act(context(cluster, accepts_stop=accepts), observation))
    assert (verdict.reason if verdict else None) == reason
    status = trainingjob.derive_status(replace(observation, blocked_by=verdict), NOW)
    assert (status.conditions[0].status, status.conditions[0].reason) == ("True", reason or "Training")


@pytest.mark.feature("T16")
@pytest.mark.parametrize(
    ("reason", "registered", "left"),
    [
        ("Trained", None, None),
        ("NotRegistered", None, None),
        ("Trained", "2026-05-01T11:59:00Z", 240.0),
    ],
    ids=["ended long ago", "not registered", "registered a minute ago"],
)
def test_time_to_live_counts_from_the_registration(reason: str, registered: str | None, left: float | None) -> None:
    complete = {"type": "Complete", "status": "True", "reason": reason, "message": ""}
    status = {"phase": "Complete", "conditions": [complete], "completionTime": "2026-05-01T11:00:00Z"}
    finished = training_job({"ttlSecondsAfterFinished": 300}, status)
    register = owned(job(spec_hash="x", ended="Complete"), "flowers-register", "uid-of-flowers")
    register["status"]["completionTime"] = registered
    cluster = Cluster()
    cluster.version = finished.metadata.resource_version
    manifests = [(TRAINING_JOBS, {"metadata": metadata()})] + ([(JOBS, register)] if registered else [])
    at = context(cluster, *manifests)
    assert asyncio.run(trainingjob._expire(at, finished, finished.status)) == left
    assert cluster.deleted == (["flowers"] if reason == "Trained" and registered is None else [])


@pytest.mark.feature("T16")
def test_changed_job_is_not_deleted_by_its_former_time_to_live() -> None:
    finished = training_job(
        {"ttlSecondsAfterFinished": 0}, {"phase": "Complete", "completionTime": "2026-05-01T11:00:00Z"}
    )
    cluster = Cluster()
    cluster.version = "of a change"
    at = context(cluster, (TRAINING_JOBS, {"metadata": metadata()}))
    assert asyncio.run(trainingjob._expire(at, finished, finished.status)) == at.settings.retry_interval_seconds
    assert cluster.deleted == []
