"""The operator's picture of the cluster stays as new as the newest news, in whatever order they come."""

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


def test_an_answer_that_comes_late_does_not_overwrite_newer_news() -> None:
    projection = Projection()
    projection.put(JOBS, job(version=10))
    projection.put(JOBS, job(version=9))
    assert version_of(projection) == "10"


def test_an_object_made_anew_replaces_its_namesake() -> None:
    projection = Projection()
    projection.put(JOBS, job(version=10))
    projection.put(JOBS, job(version=9, uid="another"))
    assert version_of(projection) == "9"


def test_a_list_brings_what_the_watch_missed_and_says_so() -> None:
    projection = Projection()
    for name in ("same", "changed", "gone"):
        projection.put(JOBS, job(name))
    projection.begin_listing(JOBS)
    differing = projection.replace(JOBS, listing(job("same"), job("changed", version=2), job("new"), version=2))
    assert differing == {Key("demo", name) for name in ("changed", "gone", "new")}
    assert {key.name for key, _ in projection.items(JOBS)} == {"same", "changed", "new"}


def test_what_happens_while_a_list_is_read_is_newer_than_the_list() -> None:
    projection = Projection()
    for name in ("changed", "gone"):
        projection.put(JOBS, job(name))
    projection.begin_listing(JOBS)
    projection.put(JOBS, job("changed", version=2))
    projection.put(JOBS, job("new", version=3))
    projection.remove(JOBS, job("gone", version=4))
    assert projection.replace(JOBS, listing(job("changed"), job("gone"))) == frozenset()
    assert version_of(projection, "changed") == "2"
    assert version_of(projection, "new") == "3"
    assert version_of(projection, "gone") is None


@pytest.mark.parametrize("news", ["changed", "gone"])
def test_a_list_that_is_older_than_the_news_before_it_is_left_aside(news: str) -> None:
    projection = Projection()
    projection.put(JOBS, job(version=10))
    if news == "changed":
        projection.put(JOBS, job(version=12))
    else:
        projection.remove(JOBS, job(version=12))
    projection.begin_listing(JOBS)
    assert projection.replace(JOBS, listing(job(version=10), job("b", version=5), version=11)) is None
    assert version_of(projection) == ("12" if news == "changed" else None)
    projection.begin_listing(JOBS)
    assert projection.replace(JOBS, listing(job("b", version=5), version=12)) is not None
    assert version_of(projection, "b") == "5"


def test_children_are_found_by_their_controller_and_only_while_it_is_that() -> None:
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


def test_of_a_pod_only_what_decisions_need_is_kept() -> None:
    projection = Projection()
    status = {"phase": "Running", "podIP": "10.0.0.1", "hostIP": "10.0.0.2"}
    projection.put(PODS, {"metadata": metadata("p", managedFields=[1]), "spec": {"containers": []}, "status": status})
    pod = projection.get(PODS, Key("demo", "p"))
    assert pod is not None
    assert pod["status"] == {"phase": "Running", "podIP": "10.0.0.1"}
    assert pod["spec"] == {}
    assert "managedFields" not in pod["metadata"]


def test_who_waits_for_a_job_is_found_only_while_it_does() -> None:
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


def test_the_pods_of_a_revision_are_found_by_their_label() -> None:
    projection = Projection()
    for name, revision in (("a", "flowers--v1-1"), ("b", "flowers--v1-2"), ("c", "flowers--v1-1")):
        labels = {"labels": {"bloomery.dev/revision": revision}}
        projection.put(PODS, {"metadata": metadata(name, resourceVersion="1") | labels, "spec": {}})
    found = projection.find(PODS, POD_REVISION, "demo", "flowers--v1-1")
    assert [key.name for key, _ in found] == ["a", "c"]
