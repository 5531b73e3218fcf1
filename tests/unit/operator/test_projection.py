"""The operator's picture of the cluster stays as new as the newest news, in whatever order they come."""

from __future__ import annotations

from bloomery_operator.cluster.kinds import JOBS, PODS, Key
from bloomery_operator.cluster.projection import Projection
from tests.unit.operator.samples import Manifest, metadata


def job(name: str = "a", *, version: int = 1, uid: str | None = None, controller: str = "owner") -> Manifest:
    reference = {"kind": "Dataset", "name": "flowers", "uid": controller, "controller": True}
    fields = {"resourceVersion": str(version), "ownerReferences": [reference]} | ({"uid": uid} if uid else {})
    return {"metadata": metadata(name, **fields)}


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
    differing = projection.replace(JOBS, [job("same"), job("changed", version=2), job("new")])
    assert differing == {Key("demo", name) for name in ("changed", "gone", "new")}
    assert {key.name for key, _ in projection.items(JOBS)} == {"same", "changed", "new"}


def test_what_happens_while_a_list_is_read_is_newer_than_the_list() -> None:
    projection = Projection()
    for name in ("changed", "gone"):
        projection.put(JOBS, job(name))
    projection.begin_listing(JOBS)
    projection.put(JOBS, job("changed", version=2))
    projection.put(JOBS, job("new", version=3))
    projection.remove(JOBS, Key("demo", "gone"))
    assert projection.replace(JOBS, [job("changed"), job("gone")]) == frozenset()
    assert version_of(projection, "changed") == "2"
    assert version_of(projection, "new") == "3"
    assert version_of(projection, "gone") is None


def test_children_are_found_by_their_controller_and_only_while_it_is_that() -> None:
    projection = Projection()
    projection.put(JOBS, job("b"))
    projection.put(JOBS, job("a"))
    projection.put(JOBS, job("c", controller="other"))
    assert [m["metadata"]["name"] for m in projection.controlled_by(JOBS, "demo", "owner")] == ["a", "b"]
    assert projection.controlled_by(JOBS, "elsewhere", "owner") == []
    projection.put(JOBS, job("a", version=2, controller="other"))
    projection.remove(JOBS, Key("demo", "b"))
    assert projection.controlled_by(JOBS, "demo", "owner") == []
    assert len(projection.controlled_by(JOBS, "demo", "other")) == 2


def test_of_a_pod_only_what_decisions_need_is_kept() -> None:
    projection = Projection()
    status = {"phase": "Running", "podIP": "10.0.0.1", "hostIP": "10.0.0.2"}
    projection.put(PODS, {"metadata": metadata("p", managedFields=[1]), "spec": {"containers": []}, "status": status})
    pod = projection.get(PODS, Key("demo", "p"))
    assert pod is not None
    assert pod["status"] == {"phase": "Running", "podIP": "10.0.0.1"}
    assert "spec" not in pod
    assert "managedFields" not in pod["metadata"]
