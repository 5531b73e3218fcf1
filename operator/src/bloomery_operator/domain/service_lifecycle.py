"""When an InferenceService is on the air: stop, start and autoStop."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from bloomery_operator.api import InferenceService
from bloomery_operator.api.durations import seconds_of
from bloomery_operator.api.reasons import Reason
from bloomery_operator.domain.labels import STARTED_AT
from bloomery_operator.domain.verdict import Verdict


@dataclass(frozen=True, kw_only=True)
class Lifecycle:
    """Since when a service is on the air, until when, and why it is not."""

    started_at: datetime | None
    stops_at: datetime | None = None
    stopped: Verdict | None = None


def lifecycle_of(service: InferenceService, now: datetime, *, has_pods: bool) -> Lifecycle:
    """Return where a service is in its life; autoStop counts from its newest start.

    The first is when it has pods for the first time (``has_pods``): a wait for a training is no time on the air.
    """
    if service.spec.stopped:
        return Lifecycle(
            started_at=None, stopped=Verdict(Reason.STOPPED, "Stopped by spec.stopped; false starts it again.")
        )
    started = _started(service, now) if has_pods else service.status.started_at
    if all(map(service.is_off, service.spec.variants)):
        return Lifecycle(started_at=started, stopped=Verdict(Reason.STOPPED, "Every variant is scaled to 0 replicas."))
    if started is None or service.spec.auto_stop is None:
        return Lifecycle(started_at=started)
    stops = started + timedelta(seconds=seconds_of(service.spec.auto_stop))
    if now < stops:
        return Lifecycle(started_at=started, stops_at=stops)
    again = f"kubectl annotate --overwrite isvc {service.metadata.name} {STARTED_AT}=$(date -u +%FT%TZ)"
    message = f"Stopped by itself {service.spec.auto_stop} after its start; to start it again: {again}"
    return Lifecycle(started_at=started, stops_at=stops, stopped=Verdict(Reason.STOPPED, message))


def _started(service: InferenceService, now: datetime) -> datetime:
    """Return the newest start: the one recorded, or that of the annotation; neither is in the future."""
    recorded = service.status.started_at or now
    annotated = _read_time(service.metadata.annotations.get(STARTED_AT, ""))
    return max(recorded, min(annotated, now)) if annotated is not None else recorded


def _read_time(text: str) -> datetime | None:
    """Return a time of RFC 3339; one that is written otherwise starts nothing."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
