"""Guard against writes for an owner that has changed since it was read: a stale cache must create nothing."""

from __future__ import annotations

from collections.abc import Mapping

from bloomery_operator.api import CustomResource
from bloomery_operator.api.base import Manifest
from bloomery_operator.cluster.client import Cluster, Listing
from bloomery_operator.cluster.kinds import ObjectKey, ResourceKind


class StaleOwner(Exception):
    """The owner has changed since it was read; the event of the change will bring the next reconcile."""


class StaleOwnerGuard:
    """``Cluster`` that reads the owner live once, before the first write."""

    def __init__(self, cluster: Cluster, kind: ResourceKind, owner: CustomResource) -> None:
        """Send all requests through ``cluster``."""
        self._cluster = cluster
        self._kind = kind
        self._owner = owner
        self._is_checked = False

    async def get(self, kind: ResourceKind, key: ObjectKey) -> Manifest | None:
        """Return the current object, or None."""
        return await self._cluster.get(kind, key)

    async def list(self, kind: ResourceKind, *, namespace: str | None, selector: str = "", fields: str = "") -> Listing:
        """Return the objects that the label selector and the field selector match."""
        return await self._cluster.list(kind, namespace=namespace, selector=selector, fields=fields)

    async def create(self, manifest: Manifest) -> Manifest | None:
        """Create the object; return None if its name is in use."""
        await self._check_owner()
        return await self._cluster.create(manifest)

    async def apply(self, manifest: Manifest) -> Manifest:
        """Apply the object server-side, and own the fields of the manifest."""
        await self._check_owner()
        return await self._cluster.apply(manifest)

    async def apply_status(self, manifest: Manifest) -> Manifest:
        """Apply the status server-side."""
        await self._check_owner()
        return await self._cluster.apply_status(manifest)

    async def annotate(self, kind: ResourceKind, key: ObjectKey, annotations: Mapping[str, str | None]) -> None:
        """Set annotations, and remove those that are None; do nothing if the object is gone."""
        await self._check_owner()
        await self._cluster.annotate(kind, key, annotations)

    async def merge(self, kind: ResourceKind, key: ObjectKey, change: Manifest) -> None:
        """Send a merge patch; do nothing if the object is gone."""
        await self._check_owner()
        await self._cluster.merge(kind, key, change)

    async def delete(self, kind: ResourceKind, key: ObjectKey, *, uid: str | None = None) -> None:
        """Delete the object, and its dependents in the background; do nothing if it is gone or has another uid."""
        await self._check_owner()
        await self._cluster.delete(kind, key, uid=uid)

    async def _check_owner(self) -> None:
        if not self._is_checked and not await is_up_to_date(self._cluster, self._kind, self._owner):
            raise StaleOwner
        self._is_checked = True


async def is_up_to_date(cluster: Cluster, kind: ResourceKind, owner: CustomResource) -> bool:
    """Return whether the live owner still has the uid and the resourceVersion of the one that was read."""
    live = await cluster.get(kind, ObjectKey(owner.metadata.namespace, owner.metadata.name))
    version = (owner.metadata.uid, owner.metadata.resource_version)
    return live is not None and (live["metadata"]["uid"], live["metadata"]["resourceVersion"]) == version
