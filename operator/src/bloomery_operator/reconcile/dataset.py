"""Dataset: one preparation Job for each spec, and its result in the status."""

from __future__ import annotations

from bloomery_operator.api import Dataset
from bloomery_operator.cluster.kinds import DATASETS, ObjectKey
from bloomery_operator.reconcile import task as tasks
from bloomery_operator.reconcile.context import (
    Context,
    missing_secret,
    observe_job,
    progress_of,
    publish_status,
    read_parent,
)
from bloomery_operator.resources import prepare
from bloomery_operator.resources.jobs import TrainerTask
from bloomery_operator.status.dataset import DatasetObservation, derive_status
from bloomery_operator.status.verdicts import Verdict
from bloomery_operator.status.workload import JobView


async def reconcile(context: Context, key: ObjectKey) -> float | None:
    """Bring one Dataset to what its spec says."""
    dataset = read_parent(context, DATASETS, Dataset, key)
    if dataset is None:
        return None
    task = prepare.build_task(dataset, context.settings)
    job = await observe_job(context, dataset, prepare.COMMAND)
    observation = DatasetObservation(
        dataset=dataset,
        wanted=task.hash,
        wanted_job=task.job_hash,
        job=job,
        obstacle=await _act(context, dataset, task, job),
        progress=await progress_of(context, job),
        mlflow_public_url=context.settings.mlflow_public_url,
    )
    status = derive_status(observation, context.now())
    await publish_status(context, dataset, status)
    if observation.obstacle is not None:
        return context.settings.retry_interval_seconds
    return context.settings.progress_poll_seconds if status.phase == "Preparing" else None


async def _act(context: Context, dataset: Dataset, task: TrainerTask, job: JobView | None) -> Verdict | None:
    """Start the wanted preparation, or make way for it; return what stands in the way."""
    is_prepared = dataset.status.prepared_spec == task.hash
    if job is None and not is_prepared:
        return await _missing_source_secret(context, dataset) or await tasks.start(context, DATASETS, dataset, task)
    if job is not None and not job.deleting and _is_in_the_way(job, task, is_prepared=is_prepared):
        await tasks.discard(context, dataset, job, prepare.COMMAND)
    return None


def _is_in_the_way(job: JobView, task: TrainerTask, *, is_prepared: bool) -> bool:
    is_anothers = job.spec_hash != task.job_hash
    if is_prepared:
        # An earlier spec is back: what still runs is for one that nobody wants any more.
        return is_anothers and not job.is_finished
    # Where nobody can say what it made, it runs again, and finds that in the store.
    return is_anothers or job.has_lost_its_pod


async def _missing_source_secret(context: Context, dataset: Dataset) -> Verdict | None:
    secret = dataset.spec.source.secret_ref
    if secret is None:
        return None
    advice = "spec.source.secretRef names it: it holds AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL."
    return await missing_secret(context, dataset.metadata.namespace, secret.name, advice=advice)
