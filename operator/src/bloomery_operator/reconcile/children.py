"""Child objects: created, applied and deleted for an owner, never in place of an object of something else."""

from __future__ import annotations

from bloomery_operator.api import CustomResource
from bloomery_operator.api.base import Manifest
from bloomery_operator.api.reasons import Reason
from bloomery_operator.cluster.apply_cache import SHARED_METADATA, owner_of
from bloomery_operator.cluster.client import ClusterError
from bloomery_operator.cluster.kinds import (
    CONFIG_MAPS,
    DISRUPTION_BUDGETS,
    SECRETS,
    ObjectKey,
    ResourceKind,
    kind_of,
)
from bloomery_operator.domain.ownership import controller_of, controller_uid
from bloomery_operator.domain.verdict import Verdict
from bloomery_operator.reconcile.blocked import Blocked
from bloomery_operator.reconcile.context import Context

_OWN_KINDS = (CONFIG_MAPS, SECRETS, DISRUPTION_BUDGETS)
"""Kinds of children that nobody else writes: they are replaced.

Others write to the other kinds as well, to a Deployment's replicas or a Service's type, so those are applied
server-side.
"""


async def create_child(context: Context, owner: CustomResource, manifest: Manifest) -> Manifest:
    """Create a child unless it exists; return it.

    Raises:
        Blocked: the name belongs to another object, or to a former child that is being deleted.
    """
    created = await context.cluster.create(manifest)
    return created if created is not None else await _read_own_child(context, owner, manifest)


async def _read_own_child(context: Context, owner: CustomResource, manifest: Manifest) -> Manifest:
    """Return the child that exists already, as its creation was refused.

    Raises:
        Blocked: the name belongs to another object, or to a former child that is being deleted.
    """
    key = ObjectKey(owner.metadata.namespace, manifest["metadata"]["name"])
    existing = await context.cluster.get(kind_of(manifest), key)
    if existing is None:
        # It was deleted between the two requests: the next try creates it.
        raise Blocked(_being_replaced(manifest))
    require_own_child(owner, existing)
    return existing


async def apply_child(
    context: Context, owner: CustomResource, manifest: Manifest, *, is_needed: bool = True, is_new: bool = False
) -> Manifest:
    """Apply a child and return it, unless it is already as described.

    A child of a kind that is not watched is read once in a resync's interval.

    Args:
        context: of the reconcile.
        owner: of the child.
        manifest: of the child.
        is_needed: whether it is created if it does not exist.
        is_new: whether it is created without a read, as it probably does not exist.

    Raises:
        Blocked: the name belongs to another object, or to a former child that is being deleted.
    """
    kind = kind_of(manifest)
    key = ObjectKey(owner.metadata.namespace, manifest["metadata"]["name"])
    seen = context.object_cache.get(kind, key)
    # Slightly less than the interval, so that every resync reads again.
    seconds = 0.9 * context.settings.resync_seconds
    if not context.object_cache.is_watched(kind) and context.apply_cache.was_applied_within(
        owner_of(owner), kind, manifest, seconds
    ):
        return manifest
    is_new = is_new or _is_probably_new(context, owner, manifest)
    existing = seen if seen is not None or is_new else await context.cluster.get(kind, key)
    if existing is None and not is_needed:
        context.apply_cache.record(owner_of(owner), kind, manifest, manifest)
        return manifest
    if existing is not None:
        require_own_child(owner, existing)
        if context.apply_cache.is_unchanged(owner_of(owner), kind, manifest, existing):
            if seen is None:
                context.apply_cache.record(owner_of(owner), kind, manifest, existing)
            return existing
    applied = await _write(context, owner, manifest, existing)
    context.apply_cache.record(owner_of(owner), kind, manifest, applied)
    return applied


def _is_probably_new(context: Context, owner: CustomResource, manifest: Manifest) -> bool:
    """Return whether a child that the cache does not have probably does not exist.

    Its creation fails if its name is in use: by an object without our label, or one that no event has shown yet.
    """
    kind, name = kind_of(manifest), manifest["metadata"]["name"]
    if context.is_first:
        return True
    return context.object_cache.is_watched(kind) and not context.apply_cache.contains(owner_of(owner), kind, name)


async def _write(context: Context, owner: CustomResource, manifest: Manifest, existing: Manifest | None) -> Manifest:
    """Create, replace or apply a child, as its kind needs it; return it.

    Raises:
        Blocked: the name belongs to another object, or to a former child that is being deleted.
    """
    kind = kind_of(manifest)
    if existing is None:
        create = context.cluster.create if kind in _OWN_KINDS else context.cluster.apply_new
        created = await create(manifest)
        if created is not None:
            return created
        # It is the rest of a first reconcile that did not come to its end, or belongs to something else.
        existing = await _read_own_child(context, owner, manifest)
    if kind not in _OWN_KINDS:
        return await context.cluster.apply(manifest)
    replaced = await context.cluster.replace(_with_metadata(manifest, existing["metadata"]))
    if replaced is None:
        name = manifest["metadata"]["name"]
        raise ClusterError(409, "Conflict", f"{kind.kind} {name!r} was changed meanwhile")
    return replaced


def _with_metadata(manifest: Manifest, existing: Manifest) -> Manifest:
    """Return a manifest that replaces an object: with its version, and what others added to its metadata."""
    shared = {
        field: {**(existing.get(field) or {}), **manifest["metadata"].get(field, {})} for field in SHARED_METADATA
    }
    identity = {field: existing[field] for field in ("resourceVersion", "uid", "finalizers") if field in existing}
    return manifest | {"metadata": manifest["metadata"] | shared | identity}


async def delete_child(context: Context, owner: CustomResource, kind: ResourceKind, name: str) -> None:
    """Delete a child, if there is one; an object of something else with its name stays."""
    key = ObjectKey(owner.metadata.namespace, name)
    is_watched = context.object_cache.is_watched(kind)
    existing = context.object_cache.get(kind, key) if is_watched else await context.cluster.get(kind, key)
    if existing is not None and controller_uid(existing) == owner.metadata.uid:
        await context.cluster.delete(kind, key, uid=existing["metadata"]["uid"])
    context.apply_cache.forget(owner_of(owner), kind, name)


def require_own_child(owner: CustomResource, existing: Manifest) -> None:
    """Check that an object with a child's name is that child.

    Raises:
        Blocked: it is not.
    """
    conflict = name_conflict(owner, existing)
    if conflict is not None:
        raise Blocked(conflict)


def name_conflict(owner: CustomResource, existing: Manifest) -> Verdict | None:
    """Return why an object with a child's name is not that child, or None if it is."""
    kind, metadata = existing["kind"], existing["metadata"]
    controller = controller_of(existing)
    if "deletionTimestamp" in metadata:
        return _being_replaced(existing)
    if controller.get("uid") == owner.metadata.uid:
        return None
    if (controller.get("kind"), controller.get("name")) == (owner.KIND, owner.metadata.name):
        return _being_replaced(existing)
    return Verdict(
        Reason.NAME_TAKEN,
        f"{kind} {metadata['name']!r} exists already and belongs to something else: delete or rename it.",
    )


def _being_replaced(former: Manifest) -> Verdict:
    message = f"The former {former['kind']} {former['metadata']['name']!r} is still being removed."
    return Verdict(Reason.REPLACING, message)
