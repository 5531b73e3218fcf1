"""TrainingJob: waits for its Dataset, runs one training Job, and is final once that ended."""

from __future__ import annotations

from datetime import timedelta

from bloomery_operator.api import Dataset, TrainingJob
from bloomery_operator.api.trainingjob import TrainingJobStatus
from bloomery_operator.cluster.kinds import DATASETS, TRAINING_JOBS, Key
from bloomery_operator.reconcile import task as tasks
from bloomery_operator.reconcile.context import (
    Context,
    find,
    observe_job,
    progress_of,
    publish_status,
    read_parent,
)
from bloomery_operator.resources import train
from bloomery_operator.status.trainingjob import TrainingJobObservation, derive_status
from bloomery_operator.status.verdicts import Verdict


async def reconcile(context: Context, key: Key) -> float | None:
    """Bring one TrainingJob on its way."""
    training_job = read_parent(context, TRAINING_JOBS, TrainingJob, key)
    if training_job is None:
        return None
    if training_job.status.is_finished:
        return await _expire(context, training_job, training_job.status)
    observation = await _observe(context, training_job)
    status = derive_status(observation, context.now())
    await publish_status(context, training_job, status)
    if status.is_finished:
        return await _expire(context, training_job, status)
    if observation.obstacle is not None:
        return context.settings.obstacle_seconds
    return context.settings.progress_seconds if status.phase == "Running" else None


async def _observe(context: Context, training_job: TrainingJob) -> TrainingJobObservation:
    namespace = training_job.metadata.namespace
    dataset_key = Key(namespace, training_job.spec.datasets[0].name)
    job = await observe_job(context, training_job)
    seen = TrainingJobObservation(
        training_job=training_job,
        model_uri=f"{train.output_uri(training_job, context.settings)}/model",
        dataset=find(context, DATASETS, Dataset, dataset_key),
        job=job,
        trained_on=train.trained_on(dict(job.annotations)) if job else None,
        progress=await progress_of(context, job),
        mlflow_public_url=context.settings.mlflow_public_url,
    )
    obstacle = await _start(context, seen) if job is None else None
    return TrainingJobObservation(**{**vars(seen), "obstacle": obstacle})


async def _start(context: Context, observation: TrainingJobObservation) -> Verdict | None:
    version = observation.dataset_version
    if version is None:
        return None
    task = train.build_task(observation.training_job, version, context.settings)
    return await tasks.start(context, TRAINING_JOBS, observation.training_job, task)


async def _expire(context: Context, training_job: TrainingJob, status: TrainingJobStatus) -> float | None:
    """Delete a finished TrainingJob once its time is over; return in how many seconds that is."""
    ttl, end = training_job.spec.ttl_seconds_after_finished, status.completion_time
    if ttl is None or end is None:
        return None
    left = (end + timedelta(seconds=ttl) - context.now()).total_seconds()
    if left > 0:
        return left
    metadata = training_job.metadata
    await context.cluster.delete(TRAINING_JOBS, Key(metadata.namespace, metadata.name), uid=metadata.uid)
    return None
