"""Running a task of the trainer image for an owner: its ConfigMap and its Job."""

from __future__ import annotations

from bloomery_operator.api import CustomResource
from bloomery_operator.api.common import Manifest
from bloomery_operator.cluster.client import ClusterError
from bloomery_operator.cluster.kinds import CONFIG_MAPS, JOBS, ObjectKey, ResourceKind, kind_of
from bloomery_operator.cluster.stale_guard import is_up_to_date
from bloomery_operator.reconcile.context import (
    Context,
    create_owned,
    missing_storage_secret,
    refusal,
)
from bloomery_operator.resources.jobs import (
    TrainerTask,
    build_config_map,
    build_job,
    build_peers_service,
    config_map_name,
)
from bloomery_operator.settings import Settings
from bloomery_operator.status.verdicts import Verdict
from bloomery_operator.status.workload import JobView


async def start(
    context: Context, kind: ResourceKind, owner: CustomResource, task: TrainerTask, *, secret: Manifest | None = None
) -> Verdict | None:
    """Create the task's ConfigMap, Secret, Service and Job, as far as it needs them; return what stands in the way."""
    missing = await missing_storage_secret(context, owner.metadata.namespace)
    if missing is not None:
        return missing
    if not await is_up_to_date(context.cluster, kind, owner):
        return None
    try:
        for manifest in _children(owner, task, context.settings, secret):
            obstacle = await create_owned(context, owner, manifest, kind_of(manifest))
            if obstacle is not None:
                return obstacle
        return None
    except ClusterError as error:
        return refusal(error)


def _children(owner: CustomResource, task: TrainerTask, settings: Settings, secret: Manifest | None) -> list[Manifest]:
    """Return what a task needs, the Job last: its pods find the rest there."""
    children = [] if task.shared_config_map else [build_config_map(owner, task)]
    children += [secret] if secret is not None else []
    children += [build_peers_service(owner, task.command)] if task.nodes > 1 else []
    return [*children, build_job(owner, task, settings)]


async def discard(context: Context, owner: CustomResource, job: JobView, command: str) -> None:
    """Remove a Job that does another work than is wanted now, with its pods and its ConfigMap."""
    namespace = owner.metadata.namespace
    # The Job last: as long as it is there, this is done again.
    await context.cluster.delete(CONFIG_MAPS, ObjectKey(namespace, config_map_name(owner, command, job.spec_hash)))
    await context.cluster.delete(JOBS, ObjectKey(namespace, job.name), uid=job.uid)
