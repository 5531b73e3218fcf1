"""Child objects: created, applied and deleted for an owner, never in place of an object of something else."""

from __future__ import annotations

from bloomery_operator.api import CustomResource
from bloomery_operator.api.base import Manifest
from bloomery_operator.api.reasons import Reason
from bloomery_operator.cluster.apply_cache import owner_of
from bloomery_operator.cluster.kinds import ObjectKey, ResourceKind, kind_of
from bloomery_operator.domain.ownership import controller_of, controller_uid
from bloomery_operator.domain.verdict import Verdict
from bloomery_operator.reconcile.blocked import Blocked
from bloomery_operator.reconcile.context import Context


async def create_child(context: Context, owner: CustomResource, manifest: Manifest) -> None:
    """Create a child unless it exists.

    Raises:
        Blocked: the name belongs to another object, or to a former child that is being deleted.
    """
    if await context.cluster.create(manifest) is not None:
        return
    key = ObjectKey(owner.metadata.namespace, manifest["metadata"]["name"])
    existing = await context.cluster.get(kind_of(manifest), key)
    if existing is None:
        # It was deleted between the two requests: the next try creates it.
        raise Blocked(_being_replaced(manifest))
    require_own_child(owner, existing)


async def apply_child(context: Context, owner: CustomResource, manifest: Manifest) -> Manifest:
    """Apply a child and return it, unless it is already as described.

    A child of a kind that is not watched is read once in a resync's interval.

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
    existing = seen or await context.cluster.get(kind, key)
    if existing is not None:
        require_own_child(owner, existing)
        if context.apply_cache.is_unchanged(owner_of(owner), kind, manifest, existing):
            if seen is None:
                context.apply_cache.record(owner_of(owner), kind, manifest, existing)
            return existing
    applied = await context.cluster.apply(manifest)
    context.apply_cache.record(owner_of(owner), kind, manifest, applied)
    return applied


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
