"""TensorBoard: there while ``spec.tensorboard`` is true, whether the training runs, ended or has not begun."""

from __future__ import annotations

from bloomery_operator.api import TrainingJob
from bloomery_operator.cluster.client import ClusterError
from bloomery_operator.cluster.kinds import DEPLOYMENTS, SERVICES, kind_of
from bloomery_operator.domain.names import tensorboard_name
from bloomery_operator.domain.verdict import Verdict
from bloomery_operator.manifests.tensorboard import build_tensorboard
from bloomery_operator.reconcile.context import Context, apply_owned, delete_owned, refusal


async def reconcile_tensorboard(context: Context, job: TrainingJob) -> Verdict | None:
    """Make or remove a job's TensorBoard; return what stands in the way."""
    if not job.spec.tensorboard:
        await _remove(context, job)
        return None
    try:
        for manifest in build_tensorboard(job, context.settings):
            made = await apply_owned(context, job, manifest, kind_of(manifest))
            if isinstance(made, Verdict):
                return made
    except ClusterError as error:
        return refusal(error)
    return None


async def _remove(context: Context, job: TrainingJob) -> None:
    for kind in (SERVICES, DEPLOYMENTS):
        # What was made a moment ago may not be seen yet: its own news brings the next look.
        await delete_owned(context, job, kind, tensorboard_name(job))
