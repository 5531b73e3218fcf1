"""The cache keeps the newest version of each object, in whatever order events and lists arrive."""

from __future__ import annotations

import pytest

from bloomery_operator.cluster.client import Listing
from bloomery_operator.cluster.kinds import INFERENCE_SERVICES, JOBS, PODS, ObjectKey
from bloomery_operator.cluster.object_cache import POD_REVISION, USED_TRAINING_JOB, ObjectCache
from tests.unit.operator.samples import Manifest, metadata


def job(name: str = "a", *, version: int = 1, uid: str | None = None, controller: str = "owner") -> Manifest:
    reference = {"kind": "Dataset", "name": "flowers", "uid": controller, "controller": True}
    fields = {"resourceVersion": str(version), "ownerReferences": [reference]} | ({"uid": uid} if uid else {})
    return {"metadata": metadata(name, **fields)}


def listing(*jobs: Manifest, version: int = 1) -> Listing:
    return Listing(jobs, versions=(str(version),))


def version_of(object_cache: ObjectCache, name: str = "a") -> str | None:
    cached = object_cache.get(JOBS, ObjectKey("demo", name))
    return cached["metadata"]["resourceVersion"] if cached else None


def test_late_response_does_not_replace_a_newer_version() -> None:
    object_cache = ObjectCache()
    object_cache.put(JOBS, job(version=10))
    object_cache.put(JOBS, job(version=9))
    assert version_of(object_cache) == "10"


def test_recreated_object_replaces_the_deleted_one() -> None:
    object_cache = ObjectCache()
    object_cache.put(JOBS, job(version=10))
    object_cache.put(JOBS, job(version=9, uid="another"))
    assert version_of(object_cache) == "9"


def test_list_repairs_and_reports_missed_changes() -> None:
    object_cache = ObjectCache()
    for name in ("same", "changed", "gone"):
        object_cache.put(JOBS, job(name))
    object_cache.begin_relist(JOBS)
    differing = object_cache.replace(JOBS, listing(job("same"), job("changed", version=2), job("new"), version=2))
    assert differing == {ObjectKey("demo", name) for name in ("changed", "gone", "new")}
    assert {key.name for key, _ in object_cache.items(JOBS)} == {"same", "changed", "new"}


def test_events_during_a_list_are_newer_than_the_list() -> None:
    object_cache = ObjectCache()
    for name in ("changed", "gone"):
        object_cache.put(JOBS, job(name))
    object_cache.begin_relist(JOBS)
    object_cache.put(JOBS, job("changed", version=2))
    object_cache.put(JOBS, job("new", version=3))
    object_cache.remove(JOBS, job("gone", version=4))
    assert object_cache.replace(JOBS, listing(job("changed"), job("gone"))) == frozenset()
    assert version_of(object_cache, "changed") == "2"
    assert version_of(object_cache, "new") == "3"
    assert version_of(object_cache, "gone") is None


@pytest.mark.parametrize("change", ["changed", "gone"])
def test_list_older_than_the_cache_is_ignored(change: str) -> None:
    object_cache = ObjectCache()
    object_cache.put(JOBS, job(version=10))
    if change == "changed":
        object_cache.put(JOBS, job(version=12))
    else:
        object_cache.remove(JOBS, job(version=12))
    object_cache.begin_relist(JOBS)
    assert object_cache.replace(JOBS, listing(job(version=10), job("b", version=5), version=11)) is None
    assert version_of(object_cache) == ("12" if change == "changed" else None)
    object_cache.begin_relist(JOBS)
    assert object_cache.replace(JOBS, listing(job("b", version=5), version=12)) is not None
    assert version_of(object_cache, "b") == "5"


def test_children_are_indexed_by_their_current_controller() -> None:
    object_cache = ObjectCache()
    object_cache.put(JOBS, job("b"))
    object_cache.put(JOBS, job("a"))
    object_cache.put(JOBS, job("c", controller="other"))
    assert [m["metadata"]["name"] for m in object_cache.controlled_by(JOBS, "demo", "owner")] == ["a", "b"]
    assert object_cache.controlled_by(JOBS, "elsewhere", "owner") == []
    object_cache.put(JOBS, job("a", version=2, controller="other"))
    object_cache.remove(JOBS, job("b"))
    assert object_cache.controlled_by(JOBS, "demo", "owner") == []
    assert len(object_cache.controlled_by(JOBS, "demo", "other")) == 2


def test_unused_fields_of_a_pod_are_stripped() -> None:
    object_cache = ObjectCache()
    status = {"phase": "Running", "podIP": "10.0.0.1", "hostIP": "10.0.0.2"}
    object_cache.put(PODS, {"metadata": metadata("p", managedFields=[1]), "spec": {"containers": []}, "status": status})
    pod = object_cache.get(PODS, ObjectKey("demo", "p"))
    assert pod is not None
    assert pod["status"] == {"phase": "Running", "podIP": "10.0.0.1"}
    assert pod["spec"] == {}
    assert "managedFields" not in pod["metadata"]


def test_services_are_indexed_by_the_jobs_they_use() -> None:
    object_cache = ObjectCache()

    def service(*jobs: str, version: int = 1) -> Manifest:
        variants = [{"name": f"v{number}", "model": {"trainingJob": job}} for number, job in enumerate(jobs)]
        return {"metadata": metadata("a", resourceVersion=str(version)), "spec": {"variants": variants}}

    def waiting_for(job: str, *, namespace: str = "demo") -> list[str]:
        services = object_cache.find(INFERENCE_SERVICES, USED_TRAINING_JOB, namespace, job)
        return [key.name for key, _ in services]

    object_cache.put(INFERENCE_SERVICES, service("one", "one", "two"))
    assert waiting_for("one") == waiting_for("two") == ["a"]
    assert waiting_for("one", namespace="another") == []
    object_cache.put(INFERENCE_SERVICES, service("two", version=2))
    assert waiting_for("one") == [] and waiting_for("two") == ["a"]
    object_cache.remove(INFERENCE_SERVICES, service("two", version=2))
    assert waiting_for("two") == []


def test_pods_are_indexed_by_revision() -> None:
    object_cache = ObjectCache()
    for name, revision in (("a", "flowers--v1-1"), ("b", "flowers--v1-2"), ("c", "flowers--v1-1")):
        labels = {"labels": {"bloomery.dev/revision": revision}}
        object_cache.put(PODS, {"metadata": metadata(name, resourceVersion="1") | labels, "spec": {}})
    pods = object_cache.find(PODS, POD_REVISION, "demo", "flowers--v1-1")
    assert [key.name for key, _ in pods] == ["a", "c"]
