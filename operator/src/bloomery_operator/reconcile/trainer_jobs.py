"""Jobs of the trainer image: started with their ConfigMap and Secret, and discarded."""

from __future__ import annotations

from bloomery_operator.api import CustomResource
from bloomery_operator.api.base import Manifest
from bloomery_operator.cluster.kinds import CONFIG_MAPS, JOBS, ObjectKey, ResourceKind
from bloomery_operator.cluster.stale_guard import is_up_to_date
from bloomery_operator.domain.names import config_map_name
from bloomery_operator.manifests.config_map import build_config_map
from bloomery_operator.manifests.job import TrainerTask, build_job
from bloomery_operator.manifests.service import build_peers_service
from bloomery_operator.reconcile.blocked import rejections_block
from bloomery_operator.reconcile.children import create_child
from bloomery_operator.reconcile.context import Context
from bloomery_operator.reconcile.lookups import require_storage_secret
from bloomery_operator.settings import Settings
from bloomery_operator.status.workloads import JobView


async def start(
    context: Context, kind: ResourceKind, owner: CustomResource, task: TrainerTask, *, secret: Manifest | None = None
) -> None:
    """Create the task's ConfigMap, Secret, Service and Job, as far as it needs them.

    Raises:
        Blocked: the storage Secret is missing, or a child cannot be created.
    """
    await require_storage_secret(context, owner.metadata.namespace)
    if not await is_up_to_date(context.cluster, kind, owner):
        return
    with rejections_block():
        for manifest in _children(owner, task, context.settings, secret):
            await create_child(context, owner, manifest)


def _children(owner: CustomResource, task: TrainerTask, settings: Settings, secret: Manifest | None) -> list[Manifest]:
    """Return the task's objects, the Job last: its pods need the others."""
    children = [] if task.shared_config_map else [build_config_map(owner, task)]
    children += [secret] if secret is not None else []
    children += [build_peers_service(owner, task.command)] if task.nodes > 1 else []
    return [*children, build_job(owner, task, settings)]


async def discard(context: Context, owner: CustomResource, job: JobView, command: str) -> None:
    """Delete a Job whose task is outdated, with its pods and its ConfigMap."""
    namespace = owner.metadata.namespace
    # The Job last: while it exists, this is repeated.
    await context.cluster.delete(CONFIG_MAPS, ObjectKey(namespace, config_map_name(owner, command, job.spec_hash)))
    await context.cluster.delete(JOBS, ObjectKey(namespace, job.name), uid=job.uid)
