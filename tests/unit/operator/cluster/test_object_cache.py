"""The cache keeps the newest version of each object, in whatever order events and lists arrive."""

from __future__ import annotations

import pytest

from bloomery_operator.cluster.client import Listing
from bloomery_operator.cluster.kinds import INFERENCE_SERVICES, JOBS, PODS, Key
from bloomery_operator.cluster.projection import POD_REVISION, USED_TRAINING_JOB, Projection
from tests.unit.operator.samples import Manifest, metadata


def job(name: str = "a", *, version: int = 1, uid: str | None = None, controller: str = "owner") -> Manifest:
    reference = {"kind": "Dataset", "name": "flowers", "uid": controller, "controller": True}
    fields = {"resourceVersion": str(version), "ownerReferences": [reference]} | ({"uid": uid} if uid else {})
    return {"metadata": metadata(name, **fields)}


def listing(*jobs: Manifest, version: int = 1) -> Listing:
    return Listing(jobs, versions=(str(version),))


def version_of(projection: Projection, name: str = "a") -> str | None:
    found = projection.get(JOBS, Key("demo", name))
    return found["metadata"]["resourceVersion"] if found else None


def test_late_response_does_not_replace_a_newer_version() -> None:
    projection = Projection()
    projection.put(JOBS, job(version=10))
    projection.put(JOBS, job(version=9))
    assert version_of(projection) == "10"


def test_recreated_object_replaces_the_deleted_one() -> None:
    projection = Projection()
    projection.put(JOBS, job(version=10))
    projection.put(JOBS, job(version=9, uid="another"))
    assert version_of(projection) == "9"


def test_list_repairs_and_reports_missed_changes() -> None:
    projection = Projection()
    for name in ("same", "changed", "gone"):
        projection.put(JOBS, job(name))
    projection.begin_relist(JOBS)
    differing = projection.replace(JOBS, listing(job("same"), job("changed", version=2), job("new"), version=2))
    assert differing == {Key("demo", name) for name in ("changed", "gone", "new")}
    assert {key.name for key, _ in projection.items(JOBS)} == {"same", "changed", "new"}


def test_events_during_a_list_are_newer_than_the_list() -> None:
    projection = Projection()
    for name in ("changed", "gone"):
        projection.put(JOBS, job(name))
    projection.begin_relist(JOBS)
    projection.put(JOBS, job("changed", version=2))
    projection.put(JOBS, job("new", version=3))
    projection.remove(JOBS, job("gone", version=4))
    assert projection.replace(JOBS, listing(job("changed"), job("gone"))) == frozenset()
    assert version_of(projection, "changed") == "2"
    assert version_of(projection, "new") == "3"
    assert version_of(projection, "gone") is None


@pytest.mark.parametrize("change", ["changed", "gone"])
def test_list_older_than_the_cache_is_ignored(change: str) -> None:
    projection = Projection()
    projection.put(JOBS, job(version=10))
    if change == "changed":
        projection.put(JOBS, job(version=12))
    else:
        projection.remove(JOBS, job(version=12))
    projection.begin_relist(JOBS)
    assert projection.replace(JOBS, listing(job(version=10), job("b", version=5), version=11)) is None
    assert version_of(projection) == ("12" if change == "changed" else None)
    projection.begin_relist(JOBS)
    assert projection.replace(JOBS, listing(job("b", version=5), version=12)) is not None
    assert version_of(projection, "b") == "5"


def test_children_are_indexed_by_their_current_controller() -> None:
    projection = Projection()
    projection.put(JOBS, job("b"))
    projection.put(JOBS, job("a"))
    projection.put(JOBS, job("c", controller="other"))
    assert [m["metadata"]["name"] for m in projection.controlled_by(JOBS, "demo", "owner")] == ["a", "b"]
    assert projection.controlled_by(JOBS, "elsewhere", "owner") == []
    projection.put(JOBS, job("a", version=2, controller="other"))
    projection.remove(JOBS, job("b"))
    assert projection.controlled_by(JOBS, "demo", "owner") == []
    assert len(projection.controlled_by(JOBS, "demo", "other")) == 2


def test_unused_fields_of_a_pod_are_stripped() -> None:
    projection = Projection()
    status = {"phase": "Running", "podIP": "10.0.0.1", "hostIP": "10.0.0.2"}
    projection.put(PODS, {"metadata": metadata("p", managedFields=[1]), "spec": {"containers": []}, "status": status})
    pod = projection.get(PODS, Key("demo", "p"))
    assert pod is not None
    assert pod["status"] == {"phase": "Running", "podIP": "10.0.0.1"}
    assert pod["spec"] == {}
    assert "managedFields" not in pod["metadata"]


def test_services_are_indexed_by_the_jobs_they_use() -> None:
    projection = Projection()

    def service(*jobs: str, version: int = 1) -> Manifest:
        variants = [{"name": f"v{number}", "model": {"trainingJob": job}} for number, job in enumerate(jobs)]
        return {"metadata": metadata("a", resourceVersion=str(version)), "spec": {"variants": variants}}

    def waiting_for(job: str, *, namespace: str = "demo") -> list[str]:
        found = projection.find(INFERENCE_SERVICES, USED_TRAINING_JOB, namespace, job)
        return [key.name for key, _ in found]

    projection.put(INFERENCE_SERVICES, service("one", "one", "two"))
    assert waiting_for("one") == waiting_for("two") == ["a"]
    assert waiting_for("one", namespace="another") == []
    projection.put(INFERENCE_SERVICES, service("two", version=2))
    assert waiting_for("one") == [] and waiting_for("two") == ["a"]
    projection.remove(INFERENCE_SERVICES, service("two", version=2))
    assert waiting_for("two") == []


def test_pods_are_indexed_by_revision() -> None:
    projection = Projection()
    for name, revision in (("a", "flowers--v1-1"), ("b", "flowers--v1-2"), ("c", "flowers--v1-1")):
        labels = {"labels": {"bloomery.dev/revision": revision}}
        projection.put(PODS, {"metadata": metadata(name, resourceVersion="1") | labels, "spec": {}})
    found = projection.find(PODS, POD_REVISION, "demo", "flowers--v1-1")
    assert [key.name for key, _ in found] == ["a", "c"]
