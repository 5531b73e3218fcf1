"""Pods of a service are those that its Deployments' ReplicaSets control."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bloomery_operator.cluster.kinds import PODS, ObjectKey, ResourceKind
from bloomery_operator.cluster.object_cache import ObjectCache
from bloomery_operator.reconcile import Context
from bloomery_operator.reconcile.server_pods import MAX_REPLICA_SETS, pods_by_revision
from tests.unit.operator.samples import Manifest, metadata, pod, settings

pytestmark = pytest.mark.feature("O7")

REVISION = "flowers--v1-1"


def controlled_by(kind: str, name: str, uid: str) -> list[Manifest]:
    return [{"kind": kind, "name": name, "uid": uid, "controller": True}]


class Cluster:
    """ReplicaSets by name."""

    def __init__(self, **replica_sets: Manifest) -> None:
        self.replica_sets = {f"{REVISION}-{name}": manifest for name, manifest in replica_sets.items()}
        self.requests = 0

    async def get(self, kind: ResourceKind, key: ObjectKey) -> Manifest | None:
        assert kind.plural == "replicasets"
        self.requests += 1
        return self.replica_sets.get(key.name)


def replica_set(uid: str, *, deployment: str) -> Manifest:
    return {"metadata": metadata(uid=uid, ownerReferences=controlled_by("Deployment", REVISION, deployment))}


def server(name: str, owners: list[Manifest]) -> Manifest:
    manifest = pod("Running", name=name)
    labels = {"bloomery.dev/revision": REVISION, "app.kubernetes.io/managed-by": "bloomery"}
    return {**manifest, "metadata": metadata(name, labels=labels, ownerReferences=owners)}


def context(cluster: Cluster, *pods: Manifest) -> Context:
    async def silent(*_: Any) -> Any:
        return None

    object_cache = ObjectCache()
    for manifest in pods:
        object_cache.put(PODS, manifest)
    return Context(
        cluster=cluster,  # type: ignore[arg-type]
        object_cache=object_cache,
        settings=settings(),
        read_progress=silent,
        stop_trainer=silent,
        registry=silent,  # type: ignore[arg-type]
        servers=silent,  # type: ignore[arg-type]
    )


def pods_of(context: Context) -> list[str]:
    pods = asyncio.run(pods_by_revision(context, "demo", {REVISION: "uid-of-deployment"}))
    return [view.name for view in pods[REVISION]]


def test_pod_with_the_labels_alone_is_none_of_the_service() -> None:
    cluster = Cluster(
        own=replica_set("rs-1", deployment="uid-of-deployment"), other=replica_set("rs-2", deployment="another")
    )
    service_context = context(
        cluster,
        server("own", controlled_by("ReplicaSet", f"{REVISION}-own", "rs-1")),
        server("a-label-only", []),
        server("a-of-another-deployment", controlled_by("ReplicaSet", f"{REVISION}-other", "rs-2")),
        server("a-of-a-former-uid", controlled_by("ReplicaSet", f"{REVISION}-own", "rs-0")),
        server("a-of-nothing", controlled_by("ReplicaSet", f"{REVISION}-gone", "rs-3")),
        server("a-of-a-job", controlled_by("Job", f"{REVISION}-own", "rs-1-job")),
        server("a-of-another-name", controlled_by("ReplicaSet", "any", "rs-4")),
    )
    assert pods_of(service_context) == ["own"]
    requests = cluster.requests
    assert pods_of(service_context) == ["own"]
    assert cluster.requests == requests, "each ReplicaSet is read once"


def test_forged_owners_cost_a_few_requests_only() -> None:
    forged = [server(f"p{n}", controlled_by("ReplicaSet", f"{REVISION}-{n}", f"rs-{n}")) for n in range(200)]
    cluster = Cluster()
    assert pods_of(context(cluster, *forged)) == []
    assert cluster.requests == MAX_REPLICA_SETS
