"""TensorBoard of a TrainingJob: exists while ``spec.tensorboard`` is true, before, during and after the training."""

from __future__ import annotations

from bloomery_operator.api import TrainingJob
from bloomery_operator.cluster.kinds import DEPLOYMENTS, SERVICES, ObjectKey
from bloomery_operator.domain.names import tensorboard_name
from bloomery_operator.manifests.pinned_template import keep_template
from bloomery_operator.manifests.tensorboard import build_tensorboard
from bloomery_operator.reconcile.blocked import Blocked, rejections_block
from bloomery_operator.reconcile.children import apply_child, delete_child
from bloomery_operator.reconcile.context import Context
from bloomery_operator.status.workloads import DeploymentView, pods_refused


async def reconcile_tensorboard(context: Context, job: TrainingJob) -> None:
    """Apply or delete a job's TensorBoard.

    Raises:
        Blocked: it cannot be applied, or its pod cannot be created.
    """
    if job.spec.tensorboard:
        deployment, service = build_tensorboard(job, context.settings)
        live = context.object_cache.get(DEPLOYMENTS, ObjectKey(job.metadata.namespace, tensorboard_name(job)))
        with rejections_block():
            # A job's podTemplate cannot change, so a TensorBoard stays as it is until it is closed.
            await apply_child(context, job, keep_template(deployment, live, adopts=True))
            await apply_child(context, job, service)
        _require_pods(context, job)
        return
    for kind in (SERVICES, DEPLOYMENTS):
        # An object that was applied a moment ago may not be known yet: its event starts the next reconcile.
        await delete_child(context, job, kind, tensorboard_name(job))


def _require_pods(context: Context, job: TrainingJob) -> None:
    deployment = context.object_cache.get(DEPLOYMENTS, ObjectKey(job.metadata.namespace, tensorboard_name(job)))
    refused = pods_refused(DeploymentView.of(deployment).rejection) if deployment is not None else None
    if refused is not None:
        raise Blocked(refused)
