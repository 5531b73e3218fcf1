"""Dependencies of every reconcile: the cluster, the clients of other servers, settings and the clock."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from cachetools import LRUCache, TTLCache

from bloomery_operator.cluster.apply_cache import ApplyCache
from bloomery_operator.cluster.client import Cluster
from bloomery_operator.cluster.gateway import Gateway
from bloomery_operator.cluster.kinds import ObjectKey
from bloomery_operator.cluster.object_cache import ObjectCache
from bloomery_operator.cluster.pod_rejections import PodRejections
from bloomery_operator.domain.rollout import RequestStats
from bloomery_operator.domain.served_model import ServedModel
from bloomery_operator.domain.verdict import Verdict
from bloomery_operator.reconcile.recent_times import RecentTimes
from bloomery_operator.reconcile.template_updates import TemplateUpdates
from bloomery_operator.settings import Settings
from bloomery_operator.status.workloads import PodView

_MAX_LOST_RESULTS = 4096
_MAX_REPLICA_SETS = 50_000
_REPLICA_SET_SECONDS = 600.0
"""Seconds for which the controller of a ReplicaSet is known."""

ProgressReader = Callable[[PodView], Awaitable[Mapping[str, Any] | None]]
TrainerStopper = Callable[[PodView, str], Awaitable[bool]]


class ModelServerMetrics(Protocol):
    """Metrics of model servers."""

    async def request_stats(
        self, step: str, since: datetime, revisions: Mapping[str, Sequence[PodView]]
    ) -> dict[str, RequestStats]:
        """Return the requests of each revision's pods in a rollout's step that began at ``since``, as far as known."""

    async def seconds_idle(self, pods: Sequence[PodView]) -> float | None:
        """Return the seconds since a revision's pods got their last request, as far as known; None if unknown."""

    async def model(self, pods: Sequence[PodView]) -> ServedModel | None:
        """Return the digest and lineage of the model that the first ready pod serves.

        Raises:
            MetricsUnreadable: the pod does not answer.
        """


class Registry(Protocol):
    """MLflow's registry, with the address and credentials of a namespace's pods."""

    async def find(
        self, environment: Mapping[str, str], reference: str, *, use_cache: bool = True
    ) -> ServedModel | Verdict:
        """Return the model that a reference resolves to now, or a moment ago, or why it cannot be resolved."""


def utc_now() -> datetime:
    """Return the time in whole seconds, as Kubernetes stores it."""
    return datetime.now(UTC).replace(microsecond=0)


def _new_owner_cache() -> MutableMapping[str, str | None]:
    return TTLCache(_MAX_REPLICA_SETS, _REPLICA_SET_SECONDS)


@dataclass(frozen=True, kw_only=True)
class Context:
    """Dependencies that are passed to a reconcile."""

    cluster: Cluster
    object_cache: ObjectCache
    settings: Settings
    read_progress: ProgressReader
    stop_trainer: TrainerStopper
    registry: Registry
    servers: ModelServerMetrics
    apply_cache: ApplyCache = field(default_factory=ApplyCache)
    pod_rejections: PodRejections = field(default_factory=PodRejections)
    lost_results: LRUCache[str, bool] = field(default_factory=lambda: LRUCache(_MAX_LOST_RESULTS))
    """Uids of finished Jobs whose pods, read live, have no result: they are not read again."""
    gateway: Gateway = field(default_factory=Gateway)
    recent_times: RecentTimes = field(default_factory=RecentTimes)
    template_updates: TemplateUpdates = field(default_factory=TemplateUpdates)
    replica_set_owners: MutableMapping[str, str | None] = field(default_factory=_new_owner_cache)
    """The uid of the Deployment that controls a ReplicaSet, by the uid of that; None if it is not known."""
    now: Callable[[], datetime] = utc_now
    is_first: bool = False
    """Whether this is an owner's first reconcile: it has no children yet, so that they are created without a read."""


Reconciler = Callable[[Context, ObjectKey], Awaitable[float | None]]
