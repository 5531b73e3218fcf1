"""Pods of a service's Deployments: those that the Deployment's own ReplicaSets control, whatever labels others have."""

from __future__ import annotations

from collections.abc import Mapping

from bloomery_operator.api.base import Manifest
from bloomery_operator.cluster.kinds import PODS, REPLICA_SETS, ObjectKey
from bloomery_operator.cluster.object_cache import POD_REVISION
from bloomery_operator.domain.ownership import controller_of, controller_uid
from bloomery_operator.reconcile.context import Context
from bloomery_operator.status.workloads import PodView

MAX_REPLICA_SETS = 10
"""ReplicaSets of one Deployment that are read; it has one, and during an update two."""


async def pods_by_revision(
    context: Context, namespace: str, deployments: Mapping[str, str]
) -> dict[str, tuple[PodView, ...]]:
    """Return the pods of each Deployment.

    Args:
        context: of the reconcile.
        namespace: of the Deployments.
        deployments: the uid of each Deployment by its name.
    """
    return {
        name: tuple([PodView.of(pod) for pod in await _pods_of(context, namespace, name, uid)])
        for name, uid in deployments.items()
    }


async def _pods_of(context: Context, namespace: str, deployment: str, uid: str) -> list[Manifest]:
    """Return the pods with a revision's label whose ReplicaSet belongs to its Deployment."""
    pods = [pod for _, pod in context.object_cache.find(PODS, POD_REVISION, namespace, deployment)]
    claimed = {
        (reference["name"], reference["uid"])
        for reference in map(controller_of, pods)
        if reference.get("kind") == "ReplicaSet" and str(reference.get("name")).startswith(f"{deployment}-")
    }
    own = {
        replica_set
        for name, replica_set in sorted(claimed)[:MAX_REPLICA_SETS]
        if await _deployment_of(context, ObjectKey(namespace, name), replica_set) == uid
    }
    return [pod for pod in pods if controller_uid(pod) in own]


async def _deployment_of(context: Context, key: ObjectKey, uid: str) -> str | None:
    """Return the uid of the Deployment that controls a ReplicaSet; None if there is no such ReplicaSet, for now."""
    if uid in context.replica_set_owners:
        return context.replica_set_owners.get(uid)
    replica_set = await context.cluster.get(REPLICA_SETS, key)
    is_same = replica_set is not None and replica_set["metadata"].get("uid") == uid
    owner = controller_uid(replica_set) if replica_set is not None and is_same else None
    context.replica_set_owners[uid] = owner
    return owner
