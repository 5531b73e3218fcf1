"""Running a task of the trainer image for an owner: its ConfigMap and its Job."""

from __future__ import annotations

from bloomery_operator.api import CustomResource
from bloomery_operator.cluster.client import ClusterError
from bloomery_operator.cluster.kinds import CONFIG_MAPS, JOBS, Key, Kind
from bloomery_operator.reconcile.context import (
    Context,
    create_owned,
    is_current,
    missing_storage_secret,
    refusal,
)
from bloomery_operator.resources.jobs import TrainerTask, build_config_map, build_job, config_map_name
from bloomery_operator.status.verdicts import Verdict
from bloomery_operator.status.workload import JobView


async def start(context: Context, kind: Kind, owner: CustomResource, task: TrainerTask) -> Verdict | None:
    """Create the task's ConfigMap and Job; return what stands in the way."""
    missing = await missing_storage_secret(context, owner.metadata.namespace)
    if missing is not None:
        return missing
    if not await is_current(context, kind, owner):
        return None
    try:
        obstacle = await create_owned(context, owner, build_config_map(owner, task), CONFIG_MAPS)
        return obstacle or await create_owned(context, owner, build_job(owner, task, context.settings), JOBS)
    except ClusterError as error:
        return refusal(error)


async def discard(context: Context, owner: CustomResource, job: JobView, command: str) -> None:
    """Remove a Job that does another work than is wanted now, with its pods and its ConfigMap."""
    namespace = owner.metadata.namespace
    await context.cluster.delete(JOBS, Key(namespace, job.name), uid=job.uid)
    await context.cluster.delete(CONFIG_MAPS, Key(namespace, config_map_name(owner, command, job.spec_hash)))
