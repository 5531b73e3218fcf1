"""Lifecycle of a service: stop, start and autoStop."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from bloomery_operator.api import InferenceService
from bloomery_operator.domain.service_lifecycle import Lifecycle, lifecycle_of
from tests.unit.operator.samples import NOW, metadata

pytestmark = pytest.mark.feature("S5")

RECORDED = {"startedAt": "2026-05-01T10:00:00Z"}
LONG_AGO = NOW - timedelta(hours=2)


def life(
    *, annotated: str | None = None, status: dict[str, Any] | None = None, has_pods: bool = True, **spec: Any
) -> Lifecycle:
    annotations = {"bloomery.dev/started-at": annotated} if annotated else {}
    variants = [{"name": "v1", "model": {"uri": "s3://models/v1"}, "weight": 100}]
    service = InferenceService.parse(
        {"metadata": metadata(annotations=annotations), "spec": {"variants": variants} | spec, "status": status or {}}
    )
    return lifecycle_of(service, NOW, has_pods=has_pods)


def test_service_runs_until_it_is_stopped() -> None:
    assert life().stopped is None
    stopped = life(stopped=True)
    assert stopped.stopped is not None
    assert stopped.started_at is None


def test_service_with_0_replicas_is_stopped() -> None:
    assert life(replicas=0).stopped is not None


@pytest.mark.parametrize(
    ("fields", "started"),
    [
        ({}, NOW),
        ({"status": RECORDED}, LONG_AGO),
        ({"status": RECORDED, "has_pods": False}, LONG_AGO),
        ({"status": RECORDED, "annotated": "2026-05-01T11:15:00Z"}, NOW - timedelta(minutes=45)),
        ({"status": RECORDED, "annotated": "2026-05-01T11:15:00+02:00"}, LONG_AGO),
        ({"status": RECORDED, "annotated": "2027-01-01T00:00:00Z"}, LONG_AGO),
        ({"status": RECORDED, "annotated": "2026-05-01T12:00:30Z"}, NOW),
        ({"status": RECORDED, "annotated": "yesterday"}, LONG_AGO),
    ],
    ids=[
        "first pods",
        "recorded",
        "between pods",
        "annotated",
        "annotated earlier",
        "in the future",
        "skewed clock",
        "no time",
    ],
)
def test_auto_stop_counts_from_the_newest_start(fields: dict[str, Any], started: datetime) -> None:
    lifecycle = life(autoStop="1h", **fields)
    assert lifecycle.started_at == started
    assert lifecycle.stops_at == started + timedelta(hours=1)
    assert (lifecycle.stopped is not None) == (started + timedelta(hours=1) <= NOW)


def test_auto_stop_does_not_count_before_the_first_pods() -> None:
    waiting = life(autoStop="1h", has_pods=False)
    assert (waiting.started_at, waiting.stops_at, waiting.stopped) == (None, None, None)


def test_auto_stop_beyond_all_dates_stops_nothing() -> None:
    endless = life(autoStop="99999999h", status=RECORDED)
    assert endless.stops_at is not None
    assert endless.stopped is None


def test_start_in_the_future_stops_the_service_until_then() -> None:
    at_noon = NOW + timedelta(hours=2)
    announced = {"autoStop": "1h", "annotated": f"{at_noon:%FT%TZ}"}
    first = life(status={"startedAt": f"{LONG_AGO:%FT%TZ}"}, **announced)
    assert first.started_at == LONG_AGO
    assert first.stopped is not None
    assert "2026-05-01T14:00:00Z is in the future" in first.stopped.message


def test_auto_stop_message_has_the_start_command() -> None:
    stopped = life(autoStop="90m", status=RECORDED).stopped
    assert stopped is not None
    assert stopped.message.startswith("Stopped by itself 90m after its start;")
    assert (
        "kubectl annotate --overwrite inferenceservices.bloomery.dev flowers bloomery.dev/started-at="
        in stopped.message
    )
