"""Lifecycle of an InferenceService: stop, start and autoStop."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from bloomery_operator.api import InferenceService
from bloomery_operator.api.durations import seconds_of
from bloomery_operator.api.reasons import Reason
from bloomery_operator.domain.labels import STARTED_AT
from bloomery_operator.domain.timestamps import read_time
from bloomery_operator.domain.verdict import Verdict

_CLOCK_SKEW = timedelta(seconds=60)
"""Time by which the clock of a user who sets the annotation may be ahead."""


@dataclass(frozen=True, kw_only=True)
class Lifecycle:
    """Start and end of a service's runtime, and why it is stopped."""

    started_at: datetime | None
    stops_at: datetime | None = None
    stopped: Verdict | None = None


def lifecycle_of(service: InferenceService, now: datetime, *, has_pods: bool) -> Lifecycle:
    """Return a service's lifecycle; autoStop counts from its newest start.

    The first start is when it first has pods (``has_pods``): the time that it waits for a training does not count.
    """
    if service.spec.stopped:
        return Lifecycle(
            started_at=None, stopped=Verdict(Reason.STOPPED, "Stopped by spec.stopped; false starts it again.")
        )
    started = _newest_start(service, now) if has_pods else service.status.started_at
    if all(map(service.is_off, service.spec.variants)):
        return Lifecycle(started_at=started, stopped=Verdict(Reason.STOPPED, "Every variant is scaled to 0 replicas."))
    if started is None or service.spec.auto_stop is None:
        return Lifecycle(started_at=started)
    stops_at = started + timedelta(seconds=seconds_of(service.spec.auto_stop))
    if now < stops_at:
        return Lifecycle(started_at=started, stops_at=stops_at)
    # By its full name: KServe, too, has a kind InferenceService.
    target = f"inferenceservices.bloomery.dev {service.metadata.name}"
    command = f"kubectl annotate --overwrite {target} {STARTED_AT}=$(date -u +%FT%TZ)"
    message = f"Stopped by itself {service.spec.auto_stop} after its start; to start it again: {command}"
    announced = _start_in_the_future(service, now)
    if announced is not None:
        message += f" (in UTC: {announced:%FT%TZ} is in the future, and it starts then)"
    return Lifecycle(started_at=started, stops_at=stops_at, stopped=Verdict(Reason.STOPPED, message))


def _newest_start(service: InferenceService, now: datetime) -> datetime:
    """Return the later of the recorded start and the annotation's, unless that is in the future.

    A start in the future counts once it has come: if it counted from each look, ``autoStop`` would never end.
    """
    recorded = service.status.started_at or now
    annotated = read_time(service.metadata.annotations.get(STARTED_AT))
    if annotated is None or annotated > now + _CLOCK_SKEW:
        return recorded
    return max(recorded, min(annotated, now))


def _start_in_the_future(service: InferenceService, now: datetime) -> datetime | None:
    annotated = read_time(service.metadata.annotations.get(STARTED_AT))
    return annotated.astimezone(UTC) if annotated is not None and annotated > now + _CLOCK_SKEW else None
