"""A child is applied again as soon as anything about it differs, and only then."""

from __future__ import annotations

import copy

from bloomery_operator.cluster.apply_cache import ApplyCache, Owner
from bloomery_operator.cluster.kinds import AUTOSCALERS, DEPLOYMENTS, ObjectKey
from tests.unit.operator.samples import Manifest, metadata

OWNER: Owner = ("InferenceService", ObjectKey("demo", "flowers"))


def manifest(replicas: int = 1, **fields: str) -> Manifest:
    return {"metadata": metadata("a", labels={"ours": "1"}) | fields, "spec": {"replicas": replicas}}


def response_to(applied: Manifest) -> Manifest:
    """Return the API server's response, with defaults, a version and the annotation of a controller."""
    answer = copy.deepcopy(applied)
    answer["spec"] |= {"revisionHistoryLimit": 10}
    answer["metadata"] |= {"resourceVersion": "7", "annotations": {"revision": "1"}}
    return answer


def cache_with(manifest: Manifest) -> ApplyCache:
    cache = ApplyCache()
    cache.record(OWNER, DEPLOYMENTS, manifest, response_to(manifest))
    return cache


def test_unchanged_child_is_not_applied_again() -> None:
    seen = response_to(manifest()) | {"status": {"readyReplicas": 1}}
    seen["metadata"] |= {"resourceVersion": "9", "annotations": {"revision": "2"}}
    assert cache_with(manifest()).is_unchanged(OWNER, DEPLOYMENTS, manifest(), seen)
    assert cache_with(manifest()).is_unchanged(OWNER, DEPLOYMENTS, manifest(resourceVersion="9"), seen)


def test_changed_manifest_is_applied() -> None:
    assert not cache_with(manifest()).is_unchanged(OWNER, DEPLOYMENTS, manifest(2), response_to(manifest()))


def test_child_that_others_changed_is_applied_again() -> None:
    for change in (
        {"spec": {"replicas": 5, "revisionHistoryLimit": 10}},
        {"data": {"key": "c29tZWJvZHkncw=="}},
        {"metadata": metadata("a")},
    ):
        assert not cache_with(manifest()).is_unchanged(OWNER, DEPLOYMENTS, manifest(), response_to(manifest()) | change)


def test_deleted_owner_is_forgotten_once() -> None:
    cache = cache_with(manifest())
    assert cache.forget_owner(OWNER)
    assert not cache.forget_owner(OWNER)


def test_deleted_child_is_not_unchanged() -> None:
    cache = cache_with(manifest())
    assert cache.contains(OWNER, DEPLOYMENTS, "a")
    cache.forget(OWNER, DEPLOYMENTS, "a")
    assert not cache.contains(OWNER, DEPLOYMENTS, "a")
    assert not cache.is_unchanged(OWNER, DEPLOYMENTS, manifest(), response_to(manifest()))
    cache = cache_with(manifest())
    cache.forget_owner(OWNER)
    assert not cache.is_unchanged(OWNER, DEPLOYMENTS, manifest(), response_to(manifest()))


def test_unwatched_child_is_applied_again_after_a_while() -> None:
    now = 100.0
    cache = ApplyCache(clock=lambda: now)
    assert not cache.was_applied_within(OWNER, AUTOSCALERS, manifest(), 60)
    cache.record(OWNER, AUTOSCALERS, manifest(), response_to(manifest()))
    now = 159.0
    assert cache.was_applied_within(OWNER, AUTOSCALERS, manifest(), 60)
    assert not cache.was_applied_within(OWNER, AUTOSCALERS, manifest(2), 60)
    now = 160.0
    assert not cache.was_applied_within(OWNER, AUTOSCALERS, manifest(), 60)
