"""Writes that are made only while their owner is as it was seen: a stale picture must create nothing."""

from __future__ import annotations

from collections.abc import Mapping

from bloomery_operator.api import CustomResource
from bloomery_operator.api.common import Manifest
from bloomery_operator.cluster.client import Cluster, Listing
from bloomery_operator.cluster.kinds import Key, Kind


class NotCurrent(Exception):
    """The owner is not as it was seen; the watch is about to say so, and that brings the next reconcile."""


class WritesWhileCurrent:
    """A ``Cluster`` that asks for the owner once, before the first write; who has nothing to write asks nothing."""

    def __init__(self, cluster: Cluster, kind: Kind, owner: CustomResource) -> None:
        """Read and write by another cluster."""
        self._cluster = cluster
        self._kind = kind
        self._owner = owner
        self._checked = False

    async def get(self, kind: Kind, key: Key) -> Manifest | None:
        """Return the object as it is now, or None."""
        return await self._cluster.get(kind, key)

    async def list(self, kind: Kind, *, namespace: str | None, selector: str) -> Listing:
        """Return the objects with those labels."""
        return await self._cluster.list(kind, namespace=namespace, selector=selector)

    async def create(self, manifest: Manifest) -> Manifest | None:
        """Create the object; None where one of that name exists already."""
        await self._check()
        return await self._cluster.create(manifest)

    async def apply(self, manifest: Manifest) -> Manifest:
        """Make the object as described, server-side, owning the described fields."""
        await self._check()
        return await self._cluster.apply(manifest)

    async def apply_status(self, manifest: Manifest) -> Manifest:
        """Make the status as described, server-side."""
        await self._check()
        return await self._cluster.apply_status(manifest)

    async def annotate(self, kind: Kind, key: Key, annotations: Mapping[str, str | None]) -> None:
        """Set annotations of an object that may be gone; None removes one."""
        await self._check()
        await self._cluster.annotate(kind, key, annotations)

    async def merge(self, kind: Kind, key: Key, change: Manifest) -> None:
        """Change the named fields of an object that may be gone, and nothing else."""
        await self._check()
        await self._cluster.merge(kind, key, change)

    async def delete(self, kind: Kind, key: Key, *, uid: str | None = None) -> None:
        """Delete the object, and in the background what it owns; one that is gone, or another by now, is fine."""
        await self._check()
        await self._cluster.delete(kind, key, uid=uid)

    async def _check(self) -> None:
        if not self._checked and not await is_current(self._cluster, self._kind, self._owner):
            raise NotCurrent
        self._checked = True


async def is_current(cluster: Cluster, kind: Kind, owner: CustomResource) -> bool:
    """Whether the owner is still as it was seen, asked live."""
    live = await cluster.get(kind, Key(owner.metadata.namespace, owner.metadata.name))
    seen = (owner.metadata.uid, owner.metadata.resource_version)
    return live is not None and (live["metadata"]["uid"], live["metadata"]["resourceVersion"]) == seen
