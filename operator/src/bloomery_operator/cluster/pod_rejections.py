"""Rejections of pods by quotas, limit ranges and admission, as the Job controller reports them in Events.

A Job has no condition for them. Events are not watched: a cluster has far too many.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from cachetools import LRUCache

from bloomery_operator.api.base import Manifest
from bloomery_operator.cluster.client import Cluster, ClusterError
from bloomery_operator.cluster.kinds import EVENTS
from bloomery_operator.domain.timestamps import read_time

logger = logging.getLogger(__name__)

_MAX_JOBS = 4096
_FORBIDDEN = 403
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class PodRejection:
    """Why the newest pod of a Job could not be created, in the controller's words."""

    message: str
    time: datetime


@dataclass(frozen=True)
class _Look:
    rejection: PodRejection | None
    at: float


class PodRejections:
    """Reads the newest rejection of a Job's pods, and remembers it so that events of the Job cost no requests."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with nothing read; ``clock`` gives seconds."""
        self._clock = clock
        self._looks: LRUCache[str, _Look] = LRUCache(_MAX_JOBS)

    async def newest(
        self, cluster: Cluster, namespace: str, job_uid: str, *, max_age_seconds: float
    ) -> PodRejection | None:
        """Return the newest rejection, as it was at most ``max_age_seconds`` ago; None if there is none."""
        last = self._looks.get(job_uid)
        if last is None or self._clock() - last.at >= max_age_seconds:
            last = self._looks[job_uid] = _Look(await _read_newest(cluster, namespace, job_uid), self._clock())
        return last.rejection


async def _read_newest(cluster: Cluster, namespace: str, job_uid: str) -> PodRejection | None:
    try:
        fields = f"involvedObject.uid={job_uid},reason=FailedCreate"
        events = await cluster.list(EVENTS, namespace=namespace, fields=fields)
    except ClusterError as error:
        if error.code != _FORBIDDEN:
            raise
        # A Role of an earlier version may lack this right, without which everything else still works.
        logger.warning("the operator may not list Events in namespace %s, so it cannot show refused pods", namespace)
        return None
    return _newest_rejection(events.items)


def _newest_rejection(events: tuple[Manifest, ...]) -> PodRejection | None:
    rejections = [PodRejection(str(event.get("message", "")), _time_of(event)) for event in events]
    return max(rejections, key=lambda rejection: rejection.time, default=None)


def _time_of(event: Manifest) -> datetime:
    """Return when an Event was last seen; its fields depend on the API by which it was created."""
    series = event.get("series") or {}
    texts = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    times = (read_time(text) for text in (*texts, event["metadata"].get("creationTimestamp")))
    return next((time for time in times if time is not None), _LONG_AGO)
