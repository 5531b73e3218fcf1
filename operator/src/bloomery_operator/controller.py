"""The controller: from watch events to reconciles, and the resync that catches what the watches missed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bloomery_operator.api import CustomResource, Dataset, InferenceService, InvalidResource, TrainingJob
from bloomery_operator.api.common import Manifest
from bloomery_operator.cluster.client import Listing
from bloomery_operator.cluster.kinds import (
    DATASETS,
    DEPLOYMENTS,
    HTTP_ROUTES,
    INFERENCE_SERVICES,
    JOBS,
    OWNERS,
    PODS,
    SERVICES,
    TRAINING_JOBS,
    Key,
    Kind,
)
from bloomery_operator.cluster.projection import USED_DATASET, USED_TRAINING_JOB, key_of
from bloomery_operator.metrics import ObjectPhase, OperatorMetrics
from bloomery_operator.reconcile import RECONCILERS, Context
from bloomery_operator.reconcile.context import publish_invalid
from bloomery_operator.reconcile.paths import overlapping, path_of
from bloomery_operator.reconcile.served_tags import ServedTags
from bloomery_operator.resources.metadata import SELECTOR
from bloomery_operator.workqueue import WorkQueue

logger = logging.getLogger(__name__)

CHILDREN = (JOBS, PODS, DEPLOYMENTS, SERVICES, HTTP_ROUTES)
OWNER_LABELS: dict[Kind, type[CustomResource]] = {
    DATASETS: Dataset,
    TRAINING_JOBS: TrainingJob,
    INFERENCE_SERVICES: InferenceService,
}
DEPENDENTS: dict[Kind, tuple[tuple[Kind, str], ...]] = {
    DATASETS: ((TRAINING_JOBS, USED_DATASET),),
    TRAINING_JOBS: ((TRAINING_JOBS, USED_TRAINING_JOB), (INFERENCE_SERVICES, USED_TRAINING_JOB)),
}
"""For a kind, who may wait for an object of it, and by which index they are found."""
STUCK_SECONDS = 300.0
"""A resync that takes longer than this beyond its interval means that the process hangs."""


@dataclass(frozen=True)
class Item:
    """One object to reconcile."""

    kind: Kind
    key: Key

    def __str__(self) -> str:
        """As logs and metrics show it: the kind first."""
        return f"{self.kind.kind} {self.key}"


class Controller:
    """Holds the queue and feeds it; lives as long as the process."""

    def __init__(self, context: Context, metrics: OperatorMetrics, *, kinds: Sequence[Kind]) -> None:
        """Watch and resync ``kinds``, the owners first."""
        self._context = context
        self._metrics = metrics
        self._kinds = tuple(kinds)
        self._queue: WorkQueue[Item] = WorkQueue(metrics)
        self._served_tags = ServedTags(context)
        self._suspects: set[tuple[Kind, Key]] = set()
        self._dead: frozenset[tuple[Kind, Key]] = frozenset()
        self._last_resync: float | None = None
        metrics.count_objects(self._phases)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds that are watched and listed."""
        return self._kinds

    def observe(self, kind: Kind, manifest: Manifest, *, deleted: bool) -> None:
        """Take in a watch event and queue whom it concerns."""
        self._metrics.events.labels(kind.kind).inc()
        self._suspects.discard((kind, key_of(manifest)))
        former = self._context.projection.get(kind, key_of(manifest))
        if deleted:
            self._context.projection.remove(kind, manifest)
        else:
            self._context.projection.put(kind, manifest)
        self._enqueue(kind, manifest)
        if kind is INFERENCE_SERVICES:
            self._enqueue_neighbours(former, None if deleted else manifest)

    async def run(self) -> None:
        """Resync once, then work and resync until cancelled."""
        self._last_resync = time.monotonic()
        await self._first_resync()
        workers = [self._queue.work(self._reconcile) for _ in range(self._context.settings.workers)]
        await asyncio.gather(self._resync_forever(), self._served_tags.tidy_forever(), *workers)

    def _phases(self) -> Iterator[ObjectPhase]:
        for owner in OWNERS:
            for key, manifest in self._context.projection.items(owner):
                # One that nobody has looked at yet has no phase.
                yield ObjectPhase(owner.kind, key.namespace, manifest.get("status", {}).get("phase") or "Pending")

    def liveness_error(self) -> str | None:
        """Say what is wrong with this process, for the liveness probe; None when it is well, or only stands by."""
        if self._last_resync is None:
            return None
        age = time.monotonic() - self._last_resync
        if age > self._context.settings.resync_seconds + STUCK_SECONDS:
            return f"the last resync was {age:.0f} s ago"
        if self._dead:
            kind, key = min(self._dead, key=str)
            return f"the watch of {kind.plural} is dead: it missed {kind.kind} {key} in two resyncs"
        return None

    async def resync(self, *, is_first: bool = False) -> None:
        """List everything, replace the projection, queue all objects, and note what the watches missed."""
        missed: set[tuple[Kind, Key]] = set()
        outdated: list[str] = []
        for kind in self._kinds:
            before = time.monotonic()
            self._context.projection.begin_listing(kind)
            differing = self._context.projection.replace(kind, await self._list(kind))
            if differing is None:
                outdated.append(kind.plural)
            elif differing:
                # Before the first list nothing is known, so that nothing can have been missed.
                self._metrics.missed_changes.labels(kind.kind).inc(0 if is_first else len(differing))
                logger.debug("resync of %s: %d changes, %.2f s", kind.plural, len(differing), time.monotonic() - before)
                missed |= {(kind, key) for key in differing}
        # An event may just be under way; an object missed twice, with no event between, is not that.
        self._dead, self._suspects = frozenset(missed & self._suspects), missed
        for owner in OWNERS:
            for key, _ in self._context.projection.items(owner):
                self._queue.add(Item(owner, key))
                self._served_tags.look_at(key.namespace)
        for _, key in missed:
            self._served_tags.look_at(key.namespace)
        if outdated:
            logger.warning("the resync leaves aside lists that are older than what is known: %s", ", ".join(outdated))
        else:
            self._last_resync = time.monotonic()

    async def _first_resync(self) -> None:
        await self.resync(is_first=True)
        self._suspects.clear()
        logger.info("everything was listed once; starting to reconcile")

    async def _resync_forever(self) -> None:
        while True:
            await asyncio.sleep(self._context.settings.resync_seconds)
            try:
                await self.resync()
            except Exception as error:
                logger.warning("the resync failed and is tried again: %r", error)

    async def _list(self, kind: Kind) -> Listing:
        selector = "" if kind in OWNERS else SELECTOR
        parts = [
            await self._context.cluster.list(kind, namespace=namespace, selector=selector)
            for namespace in self._context.settings.namespaces or (None,)
        ]
        return Listing(
            items=tuple(item for part in parts for item in part.items),
            versions=tuple(version for part in parts for version in part.versions),
        )

    async def _reconcile(self, item: Item) -> float | None:
        with self._metrics.time_reconcile(item.kind.kind):
            return await self._reconcile_item(item)

    async def _reconcile_item(self, item: Item) -> float | None:
        if self._context.projection.get(item.kind, item.key) is None:
            self._queue.forget(item)
            was_known = self._context.applied.forget_owner((item.kind.kind, item.key))
            # What it owned goes after it, piece by piece; its tags are looked for once.
            if was_known and item.kind is INFERENCE_SERVICES:
                self._served_tags.look_at(item.key.namespace)
            return None
        try:
            return await RECONCILERS[item.kind](self._context, item.key)
        except InvalidResource as error:
            await publish_invalid(self._context, item.kind, item.key, error)
            return None

    def _enqueue(self, kind: Kind, manifest: Manifest) -> None:
        metadata = manifest["metadata"]
        namespace = metadata["namespace"]
        if kind in OWNERS:
            self._queue.add(Item(kind, Key(namespace, metadata["name"])))
            self._enqueue_dependents(kind, namespace, metadata["name"])
            return
        labels = metadata.get("labels", {})
        for owner, model in OWNER_LABELS.items():
            if model.OWNER_LABEL in labels:
                self._queue.add(Item(owner, Key(namespace, labels[model.OWNER_LABEL])))

    def _enqueue_neighbours(self, former: Manifest | None, manifest: Manifest | None) -> None:
        """Queue the services whose path overlaps with one that was taken or left: they give way, or come back."""
        before, after = ({path_of(seen)} if seen is not None else set() for seen in (former, manifest))
        for path in before ^ after:
            for key in overlapping(self._context.projection, path):
                self._queue.add(Item(INFERENCE_SERVICES, key))

    def _enqueue_dependents(self, kind: Kind, namespace: str, name: str) -> None:
        """Queue those that wait for this object: a Dataset's jobs, a job's services."""
        for waiting, index in DEPENDENTS.get(kind, ()):
            for key, _ in self._context.projection.find(waiting, index, namespace, name):
                self._queue.add(Item(waiting, key))
