"""A child is applied again as soon as anything about it differs, and only then."""

from __future__ import annotations

import copy

from bloomery_operator.cluster.apply_cache import Applied, Owner
from bloomery_operator.cluster.kinds import AUTOSCALERS, DEPLOYMENTS, Key
from tests.unit.operator.samples import Manifest, metadata

OWNER: Owner = ("InferenceService", Key("demo", "flowers"))


def manifest(replicas: int = 1, **fields: str) -> Manifest:
    return {"metadata": metadata("a", labels={"ours": "1"}) | fields, "spec": {"replicas": replicas}}


def response_to(applied: Manifest) -> Manifest:
    """Return the API server's response, with defaults, a version and the annotation of a controller."""
    answer = copy.deepcopy(applied)
    answer["spec"] |= {"revisionHistoryLimit": 10}
    answer["metadata"] |= {"resourceVersion": "7", "annotations": {"revision": "1"}}
    return answer


def applied(manifest: Manifest) -> Applied:
    record = Applied()
    record.note(OWNER, DEPLOYMENTS, manifest, response_to(manifest))
    return record


def test_unchanged_child_is_not_applied_again() -> None:
    seen = response_to(manifest()) | {"status": {"readyReplicas": 1}}
    seen["metadata"] |= {"resourceVersion": "9", "annotations": {"revision": "2"}}
    assert applied(manifest()).holds(OWNER, DEPLOYMENTS, manifest(), seen)
    assert applied(manifest()).holds(OWNER, DEPLOYMENTS, manifest(resourceVersion="9"), seen)


def test_changed_manifest_is_applied() -> None:
    assert not applied(manifest()).holds(OWNER, DEPLOYMENTS, manifest(2), response_to(manifest()))


def test_child_that_others_changed_is_applied_again() -> None:
    for change in (
        {"spec": {"replicas": 5, "revisionHistoryLimit": 10}},
        {"data": {"key": "c29tZWJvZHkncw=="}},
        {"metadata": metadata("a")},
    ):
        assert not applied(manifest()).holds(OWNER, DEPLOYMENTS, manifest(), response_to(manifest()) | change)


def test_deleted_owner_is_forgotten_once() -> None:
    record = applied(manifest())
    assert record.forget_owner(OWNER)
    assert not record.forget_owner(OWNER)


def test_deleted_child_is_not_unchanged() -> None:
    record = applied(manifest())
    assert record.knows(OWNER, DEPLOYMENTS, "a")
    record.forget(OWNER, DEPLOYMENTS, "a")
    assert not record.knows(OWNER, DEPLOYMENTS, "a")
    assert not record.holds(OWNER, DEPLOYMENTS, manifest(), response_to(manifest()))
    record = applied(manifest())
    record.forget_owner(OWNER)
    assert not record.holds(OWNER, DEPLOYMENTS, manifest(), response_to(manifest()))


def test_unwatched_child_is_applied_again_after_a_while() -> None:
    now = 100.0
    record = Applied(clock=lambda: now)
    assert not record.is_recent(OWNER, AUTOSCALERS, manifest(), 60)
    record.note(OWNER, AUTOSCALERS, manifest(), response_to(manifest()))
    now = 159.0
    assert record.is_recent(OWNER, AUTOSCALERS, manifest(), 60)
    assert not record.is_recent(OWNER, AUTOSCALERS, manifest(2), 60)
    now = 160.0
    assert not record.is_recent(OWNER, AUTOSCALERS, manifest(), 60)
