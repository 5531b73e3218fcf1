"""TensorBoard: there while ``spec.tensorboard`` is true, whether the training runs, ended or has not begun."""

from __future__ import annotations

from bloomery_operator.api import TrainingJob
from bloomery_operator.cluster.client import ClusterError
from bloomery_operator.cluster.kinds import DEPLOYMENTS, SERVICES, Key, kind_of
from bloomery_operator.reconcile.context import Context, apply_owned, delete_owned, refusal
from bloomery_operator.resources.tensorboard import build_tensorboard, how_to_open, tensorboard_name
from bloomery_operator.status.verdicts import Verdict


async def reconcile_tensorboard(context: Context, job: TrainingJob) -> str | None:
    """Make or remove a job's TensorBoard; return how it is opened, or in words why there is none."""
    key = Key(job.metadata.namespace, tensorboard_name(job))
    there = context.projection.get(DEPLOYMENTS, key) is not None
    if not job.spec.tensorboard:
        if there or job.status.tensorboard_url:
            await delete_owned(context, job, SERVICES, key.name)
            await delete_owned(context, job, DEPLOYMENTS, key.name)
        return None
    if there and job.status.tensorboard_url:
        return job.status.tensorboard_url
    try:
        for manifest in build_tensorboard(job, context.settings):
            made = await apply_owned(context, job, manifest, kind_of(manifest))
            if isinstance(made, Verdict):
                return made.message
    except ClusterError as error:
        return refusal(error).message
    return how_to_open(job)
