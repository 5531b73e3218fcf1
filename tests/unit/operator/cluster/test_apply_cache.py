"""What was applied is sent again as soon as anything about it differs, and only then."""

from __future__ import annotations

import copy

from bloomery_operator.cluster.apply_cache import Applied, Owner
from bloomery_operator.cluster.kinds import AUTOSCALERS, DEPLOYMENTS, Key
from tests.unit.operator.samples import Manifest, metadata

OWNER: Owner = ("InferenceService", Key("demo", "flowers"))


def wanted(replicas: int = 1, **fields: str) -> Manifest:
    return {"metadata": metadata("a", labels={"ours": "1"}) | fields, "spec": {"replicas": replicas}}


def answered(manifest: Manifest) -> Manifest:
    """What the API server makes of it: defaults, a version, and a controller's annotation."""
    answer = copy.deepcopy(manifest)
    answer["spec"] |= {"revisionHistoryLimit": 10}
    answer["metadata"] |= {"resourceVersion": "7", "annotations": {"revision": "1"}}
    return answer


def applied(manifest: Manifest) -> Applied:
    record = Applied()
    record.note(OWNER, DEPLOYMENTS, manifest, answered(manifest))
    return record


def test_what_is_as_it_was_left_is_not_sent_again() -> None:
    seen = answered(wanted()) | {"status": {"readyReplicas": 1}}
    seen["metadata"] |= {"resourceVersion": "9", "annotations": {"revision": "2"}}
    assert applied(wanted()).holds(OWNER, DEPLOYMENTS, wanted(), seen)
    assert applied(wanted()).holds(OWNER, DEPLOYMENTS, wanted(resourceVersion="9"), seen)


def test_another_wish_is_sent() -> None:
    assert not applied(wanted()).holds(OWNER, DEPLOYMENTS, wanted(2), answered(wanted()))


def test_what_somebody_changed_or_took_away_is_put_right() -> None:
    for change in (
        {"spec": {"replicas": 5, "revisionHistoryLimit": 10}},
        {"data": {"key": "c29tZWJvZHkncw=="}},
        {"metadata": metadata("a")},
    ):
        assert not applied(wanted()).holds(OWNER, DEPLOYMENTS, wanted(), answered(wanted()) | change)


def test_an_owner_that_is_gone_is_known_to_go_once() -> None:
    record = applied(wanted())
    assert record.forget_owner(OWNER)
    assert not record.forget_owner(OWNER)


def test_nothing_is_believed_of_what_was_never_applied_or_deleted() -> None:
    record = applied(wanted())
    assert record.knows(OWNER, DEPLOYMENTS, "a")
    record.forget(OWNER, DEPLOYMENTS, "a")
    assert not record.knows(OWNER, DEPLOYMENTS, "a")
    assert not record.holds(OWNER, DEPLOYMENTS, wanted(), answered(wanted()))
    record = applied(wanted())
    record.forget_owner(OWNER)
    assert not record.holds(OWNER, DEPLOYMENTS, wanted(), answered(wanted()))


def test_what_no_watch_shows_is_believed_for_a_while() -> None:
    now = 100.0
    record = Applied(clock=lambda: now)
    assert not record.is_recent(OWNER, AUTOSCALERS, wanted(), 60)
    record.note(OWNER, AUTOSCALERS, wanted(), answered(wanted()))
    now = 159.0
    assert record.is_recent(OWNER, AUTOSCALERS, wanted(), 60)
    assert not record.is_recent(OWNER, AUTOSCALERS, wanted(2), 60)
    now = 160.0
    assert not record.is_recent(OWNER, AUTOSCALERS, wanted(), 60)
