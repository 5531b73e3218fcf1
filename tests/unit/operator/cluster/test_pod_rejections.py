"""Events of a Job whose pods cannot be created: read seldom, and only the newest counts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bloomery_operator.cluster.client import ClusterError, Listing
from bloomery_operator.cluster.pod_rejections import PodRejections
from tests.unit.operator.samples import Manifest

pytestmark = pytest.mark.feature("O6")


class Events:
    """A cluster that lists Events, or rejects that."""

    def __init__(self, *events: Manifest, error: ClusterError | None = None) -> None:
        self.requests: list[Any] = []
        self._events = events
        self._error = error

    async def list(self, kind: Any, **query: Any) -> Listing:
        self.requests.append((kind.plural, query))
        if self._error is not None:
            raise self._error
        return Listing(self._events, versions=("1",))


def event(message: str, created: str, **times: Any) -> Manifest:
    return {"metadata": {"creationTimestamp": created}, "message": message} | times


def newest(rejections: PodRejections, events: Events) -> str | None:
    read = rejections.newest(events, "demo", "uid", max_age_seconds=30)  # type: ignore[arg-type]
    rejection = asyncio.run(read)
    return rejection.message if rejection else None


def test_rejection_seen_last_counts_whatever_api_made_the_event() -> None:
    events = Events(
        event("first", "2026-05-01T10:00:00Z", lastTimestamp="2026-05-01T10:09:00Z"),
        event("newest", "2026-05-01T10:00:00Z", series={"lastObservedTime": "2026-05-01T10:10:00.000000Z"}),
        event("other", "2026-05-01T10:08:00Z", eventTime=None, lastTimestamp=None),
    )
    assert newest(PodRejections(), events) == "newest"
    query = {"namespace": "demo", "fields": "involvedObject.uid=uid,reason=FailedCreate"}
    assert events.requests == [("events", query)]


def test_events_of_a_job_are_not_read_again_within_the_interval() -> None:
    now = 100.0
    rejections, events = PodRejections(clock=lambda: now), Events()
    for seconds, requests in ((0, 1), (29, 1), (1, 2)):
        now += seconds
        assert newest(rejections, events) is None
        assert len(events.requests) == requests


def test_role_without_the_right_to_list_events_stops_nothing() -> None:
    forbidden = ClusterError(403, "Forbidden", "events is forbidden")
    assert newest(PodRejections(), Events(error=forbidden)) is None
    with pytest.raises(ClusterError):
        newest(PodRejections(), Events(error=ClusterError(500, "InternalError", "etcd is away")))
