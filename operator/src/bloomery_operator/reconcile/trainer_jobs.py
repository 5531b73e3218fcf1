"""Jobs of the trainer image: started with their configuration, and discarded."""

from __future__ import annotations

from bloomery_operator.api import CustomResource
from bloomery_operator.api.base import Manifest
from bloomery_operator.cluster.kinds import CONFIG_MAPS, JOBS, ObjectKey
from bloomery_operator.domain.names import config_name
from bloomery_operator.manifests.job import TrainerTask, build_config, build_job
from bloomery_operator.manifests.service import build_peers_service
from bloomery_operator.reconcile.blocked import rejections_block
from bloomery_operator.reconcile.children import create_child, delete_child
from bloomery_operator.reconcile.context import Context
from bloomery_operator.reconcile.lookups import require_storage_secret
from bloomery_operator.settings import Settings
from bloomery_operator.status.workloads import JobView


async def start(context: Context, owner: CustomResource, task: TrainerTask) -> None:
    """Create the task's configuration, Service and Job, as far as it needs them.

    Raises:
        Blocked: the storage Secret is missing, or a child cannot be created.
    """
    # Many jobs that start at once need no read each; that a Secret was deleted a moment ago shows in their pods.
    seconds = context.settings.retry_interval_seconds
    await require_storage_secret(context, owner.metadata.namespace, max_age_seconds=seconds)
    with rejections_block():
        for manifest in _children(owner, task, context.settings):
            await create_child(context, owner, manifest)


def _children(owner: CustomResource, task: TrainerTask, settings: Settings) -> list[Manifest]:
    """Return the task's objects, the Job last: its pods need the others."""
    children = [] if task.shared_config else [build_config(owner, task)]
    children += [build_peers_service(owner, task.command)] if task.nodes > 1 else []
    return [*children, build_job(owner, task, settings)]


async def discard(context: Context, owner: CustomResource, job: JobView, command: str) -> None:
    """Delete a Job whose task is outdated, with its pods and its ConfigMap; a Secret goes with the owner."""
    namespace = owner.metadata.namespace
    # The Job last: while it exists, this is repeated.
    await delete_child(context, owner, CONFIG_MAPS, config_name(owner, command, job.spec_hash))
    await context.cluster.delete(JOBS, ObjectKey(namespace, job.name), uid=job.uid)
