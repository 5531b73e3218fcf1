"""The resync: lists all objects, repairs the cache, and detects watches that miss changes."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from bloomery_operator.cluster.client import ClusterError, Listing
from bloomery_operator.cluster.kinds import LATER_OWNERS, OWNERS, ObjectKey, ObjectReference, ResourceKind
from bloomery_operator.domain.labels import SELECTOR
from bloomery_operator.metrics import OperatorMetrics
from bloomery_operator.reconcile import Context

logger = logging.getLogger(__name__)

STUCK_SECONDS = 300.0
"""A resync that is late by more than this means that the process hangs."""


def label_selector(kind: ResourceKind) -> str:
    """Return the selector of the objects to list and watch: all owners, and of other kinds those with our label."""
    return "" if kind in OWNERS else SELECTOR


class Resync:
    """Lists the kinds, and compares the lists with what the watches reported."""

    def __init__(self, context: Context, metrics: OperatorMetrics, *, kinds: Sequence[ResourceKind]) -> None:
        """List ``kinds`` in this order."""
        self._context = context
        self._metrics = metrics
        self._kinds = tuple(kinds)
        self._missed_in_last_resync: dict[ObjectReference, str | None] = {}
        """Objects that the cache did not have as they were, with the versions that they had."""
        self._missed_in_two_resyncs: frozenset[ObjectReference] = frozenset()
        self._last_resync: float | None = None

    def begin(self) -> None:
        """Expect resyncs from now on: the liveness check fails if they are late."""
        self._last_resync = time.monotonic()

    def note_event(self, reference: ObjectReference) -> None:
        """Note that a watch reported an object."""
        self._missed_in_last_resync.pop(reference, None)

    def liveness_error(self) -> str | None:
        """Return why this process must be restarted; None while it works, or is a standby."""
        if self._last_resync is None:
            return None
        age = time.monotonic() - self._last_resync
        if age > self._context.settings.resync_seconds + STUCK_SECONDS:
            return f"the last resync was {age:.0f} s ago"
        if self._missed_in_two_resyncs:
            missed = min(self._missed_in_two_resyncs, key=str)
            return f"the watch of {missed.kind.plural} is dead: it missed {missed} in two resyncs"
        return None

    async def run(self, *, is_first: bool) -> frozenset[ObjectReference]:
        """List everything and replace the cache; return the objects that the cache did not have as they are."""
        changed: set[ObjectReference] = set()
        outdated: list[str] = []
        for kind in self._kinds:
            keys = await self._relist(kind)
            if keys is None:
                outdated.append(kind.plural)
            elif keys:
                changed |= {ObjectReference(kind, key) for key in keys}
                # The cache is empty before the first list, so the watches cannot have missed anything.
                self._metrics.missed_changes.labels(kind.kind).inc(0 if is_first else len(keys))
        missed = set() if is_first else changed
        # The event of a change may be under way. An object that was missed and has changed since, with no event in
        # between, has a dead watch: also if the change is known, because it is our own.
        self._missed_in_two_resyncs = frozenset(
            reference
            for reference, version in self._missed_in_last_resync.items()
            if reference in missed or self._version_of(reference) != version
        )
        self._missed_in_last_resync = {reference: self._version_of(reference) for reference in missed}
        if outdated:
            logger.warning("the resync ignores lists that are older than the cache: %s", ", ".join(outdated))
        else:
            self._last_resync = time.monotonic()
        return frozenset(changed)

    def _version_of(self, reference: ObjectReference) -> str | None:
        manifest = self._context.object_cache.get(reference.kind, reference.key)
        return manifest["metadata"].get("resourceVersion") if manifest is not None else None

    async def _relist(self, kind: ResourceKind) -> frozenset[ObjectKey] | None:
        """Replace the cached objects of a kind; return the keys of those that differ, None for an outdated list."""
        started = time.monotonic()
        self._context.object_cache.begin_relist(kind)
        keys = self._context.object_cache.replace(kind, await self._list(kind))
        if keys:
            logger.debug("resync of %s: %d changes, %.2f s", kind.plural, len(keys), time.monotonic() - started)
        return keys

    async def _list(self, kind: ResourceKind) -> Listing:
        try:
            listings = [
                await self._context.cluster.list(kind, namespace=namespace, selector=label_selector(kind))
                for namespace in self._context.settings.namespaces or (None,)
            ]
        except ClusterError as error:
            if kind not in LATER_OWNERS or not error.is_unknown_kind:
                raise
            logger.warning("the cluster has no kind %s yet: apply the kinds of this release", kind.kind)
            return Listing(items=(), versions=("0",))
        return Listing(
            items=tuple(item for listing in listings for item in listing.items),
            versions=tuple(version for listing in listings for version in listing.versions),
        )
