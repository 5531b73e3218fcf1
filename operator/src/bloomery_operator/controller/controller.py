"""The controller: queues the objects that watch events and resyncs concern, and reconciles them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence

from bloomery_operator.api import (
    BatchPrediction,
    CustomResource,
    Dataset,
    InferenceService,
    InvalidResource,
    Retraining,
    TrainingJob,
)
from bloomery_operator.api.base import Manifest
from bloomery_operator.cluster.kinds import (
    BATCH_PREDICTIONS,
    DATASETS,
    DEPLOYMENTS,
    HTTP_ROUTES,
    INFERENCE_SERVICES,
    JOBS,
    OWNERS,
    PODS,
    RETRAININGS,
    SERVICES,
    TRAINING_JOBS,
    ObjectKey,
    ObjectReference,
    ResourceKind,
)
from bloomery_operator.cluster.object_cache import USED_DATASET, USED_TRAINING_JOB, key_of
from bloomery_operator.controller.resync import Resync
from bloomery_operator.controller.shared_keys import SharedKeys
from bloomery_operator.controller.workqueue import WorkerSlots, WorkQueue
from bloomery_operator.metrics import ObjectPhase, OperatorMetrics
from bloomery_operator.reconcile import RECONCILERS, Context
from bloomery_operator.reconcile.path_conflicts import overlapping, path_of
from bloomery_operator.reconcile.served_tags import ServedTags
from bloomery_operator.reconcile.status_writer import StaleOwner, publish_invalid
from bloomery_operator.settings import Settings

logger = logging.getLogger(__name__)

_CHILDREN = (JOBS, PODS, DEPLOYMENTS, SERVICES, HTTP_ROUTES)
_OWNER_MODELS: dict[ResourceKind, type[CustomResource]] = {
    DATASETS: Dataset,
    TRAINING_JOBS: TrainingJob,
    RETRAININGS: Retraining,
    INFERENCE_SERVICES: InferenceService,
    BATCH_PREDICTIONS: BatchPrediction,
}
_DEPENDENTS: dict[ResourceKind, tuple[tuple[ResourceKind, str], ...]] = {
    DATASETS: ((TRAINING_JOBS, USED_DATASET), (RETRAININGS, USED_DATASET)),
    TRAINING_JOBS: tuple((kind, USED_TRAINING_JOB) for kind in (TRAINING_JOBS, INFERENCE_SERVICES, BATCH_PREDICTIONS)),
}
"""For a kind, the kinds whose objects may wait for one of it, and the index that finds them."""
STALE_RETRY_SECONDS = 1.0
"""Pause after an object had changed before its status was written."""
SETTLING_SECONDS = 0.5
"""Time for further events of the same object: a pod that starts changes its Deployment, its Service and itself."""


def watched_kinds(settings: Settings) -> tuple[ResourceKind, ...]:
    """Return the kinds to watch and list, the owners first; routes only if a gateway is configured."""
    kinds = (*OWNERS, *_CHILDREN)
    if not settings.has_gateway:
        return tuple(kind for kind in kinds if kind is not HTTP_ROUTES)
    return kinds


class Controller:
    """Fills the work queue, and runs the workers."""

    def __init__(
        self,
        context: Context,
        metrics: OperatorMetrics,
        *,
        kinds: Sequence[ResourceKind],
        slots: WorkerSlots,
        served_tags: ServedTags,
    ) -> None:
        """Resync ``kinds``, the owners first; ``slots`` limits the concurrent reconciles."""
        self._context = context
        self._metrics = metrics
        # Namespaces take turns: one with very many objects delays no other.
        self._queue: WorkQueue[ObjectReference] = WorkQueue(metrics, slots=slots, group=lambda item: item.key.namespace)
        self._resync = Resync(context, metrics, kinds=kinds)
        self._served_tags = served_tags
        metrics.count_objects(self._list_phases)

    def liveness_error(self) -> str | None:
        """Return why this process must be restarted; None while it works, or is a standby."""
        return self._resync.liveness_error()

    def observe(self, kind: ResourceKind, manifest: Manifest, *, deleted: bool) -> None:
        """Take in a watch event, and queue the objects that it concerns."""
        key = key_of(manifest)
        self._metrics.events.labels(kind.kind).inc()
        self._resync.note_event(ObjectReference(kind, key))
        former = self._context.object_cache.get(kind, key)
        if deleted:
            self._context.object_cache.remove(kind, manifest)
        else:
            self._context.object_cache.put(kind, manifest)
        self._enqueue_concerned(kind, manifest, delay=0.0 if deleted else _delay(kind, former, manifest))
        if kind is INFERENCE_SERVICES:
            self._enqueue_path_neighbours(former, None if deleted else manifest)

    async def run(self) -> None:
        """Resync once, then reconcile and resync until cancelled."""
        self._resync.begin()
        await self.resync(is_first=True)
        logger.info("everything was listed once; starting to reconcile")
        # Unlike gather, a group ends only when all parts have: the caller then closes the connections that they use.
        async with asyncio.TaskGroup() as parts:
            parts.create_task(self._resync_forever())
            parts.create_task(self._queue.work(self._reconcile))
            parts.create_task(SharedKeys(self._context).check_forever())

    async def resync(self, *, is_first: bool = False) -> None:
        """List everything, and queue all owners."""
        await self._resync.run(is_first=is_first)
        for owner in OWNERS:
            for key, _ in self._context.object_cache.items(owner):
                self._queue.add(ObjectReference(owner, key))
        self._served_tags.look_at_all()

    async def _resync_forever(self) -> None:
        while True:
            await asyncio.sleep(self._context.settings.resync_seconds)
            try:
                await self.resync()
            except Exception as error:
                logger.warning("the resync failed and is tried again: %r", error)

    async def _reconcile(self, item: ObjectReference) -> float | None:
        with self._metrics.time_reconcile(item.kind.kind):
            if self._context.object_cache.get(item.kind, item.key) is None:
                self._forget(item)
                return None
            try:
                return await RECONCILERS[item.kind](self._context, item.key)
            except StaleOwner:
                # The event of the change usually queues it before that.
                return STALE_RETRY_SECONDS
            except InvalidResource as error:
                await publish_invalid(self._context, item.kind, item.key, error)
                return None
            finally:
                if item.kind is INFERENCE_SERVICES:
                    self._served_tags.look_at(item.key)

    def _forget(self, owner: ObjectReference) -> None:
        """Drop what is stored of an owner that was deleted."""
        self._queue.forget(owner)
        self._context.apply_cache.forget_owner((owner.kind.kind, owner.key))
        if owner.kind is INFERENCE_SERVICES:
            self._served_tags.look_at(owner.key)

    def _enqueue_concerned(self, kind: ResourceKind, manifest: Manifest, *, delay: float) -> None:
        """Queue an owner and its dependents, and the owners of a child, which may be an owner itself."""
        key = key_of(manifest)
        if kind in OWNERS:
            self._enqueue(ObjectReference(kind, key), delay)
            self._enqueue_dependents(kind, key)
        labels = manifest["metadata"].get("labels", {})
        for owner, model in _OWNER_MODELS.items():
            if model.OWNER_LABEL in labels:
                name = labels[model.OWNER_LABEL]
                self._enqueue(ObjectReference(owner, ObjectKey(key.namespace, name)), delay)

    def _enqueue(self, item: ObjectReference, delay: float) -> None:
        """Queue an object after a delay in seconds."""
        if delay:
            self._queue.add_after(item, delay)
        else:
            self._queue.add(item)

    def _enqueue_dependents(self, kind: ResourceKind, key: ObjectKey) -> None:
        """Queue the objects that may wait for this one: the jobs of a Dataset, the services of a job."""
        for dependent, index in _DEPENDENTS.get(kind, ()):
            for waiting, _ in self._context.object_cache.find(dependent, index, key.namespace, key.name):
                self._queue.add(ObjectReference(dependent, waiting))

    def _enqueue_path_neighbours(self, former: Manifest | None, current: Manifest | None) -> None:
        """Queue the namespace's services whose path overlaps with one that was taken or released.

        They may give way or return. A service of another namespace looks again by itself, so that nobody can make the
        operator work for other namespaces.
        """
        namespaces = {service["metadata"]["namespace"] for service in (former, current) if service is not None}
        before, after = ({path_of(service)} if service is not None else set() for service in (former, current))
        for path in before ^ after:
            for key in overlapping(self._context.object_cache, path):
                if key.namespace in namespaces:
                    self._queue.add(ObjectReference(INFERENCE_SERVICES, key))

    def _list_phases(self) -> Iterator[ObjectPhase]:
        for owner in OWNERS:
            for key, manifest in self._context.object_cache.items(owner):
                # A new object has no phase before its first reconcile.
                yield ObjectPhase(owner.kind, key.namespace, manifest.get("status", {}).get("phase") or "Pending")


def _delay(kind: ResourceKind, former: Manifest | None, current: Manifest) -> float:
    """Return the seconds after which an event is to be reconciled.

    What a person changes is reconciled at once, what follows from it, in children and statuses, together.
    """
    if kind not in OWNERS:
        return SETTLING_SECONDS
    before, now = former["metadata"] if former is not None else {}, current["metadata"]
    fields = ("generation", "annotations", "labels", "deletionTimestamp")
    return 0.0 if any(before.get(field) != now.get(field) for field in fields) else SETTLING_SECONDS
