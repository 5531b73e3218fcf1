"""TrainingJob: waits for its Datasets and initial model, runs one training Job, and is final once that ended."""

from __future__ import annotations

import secrets
from dataclasses import replace
from datetime import timedelta

from bloomery_operator.api import Dataset, TrainingJob
from bloomery_operator.api.trainingjob import TrainingJobStatus
from bloomery_operator.cluster.kinds import DATASETS, JOBS, SECRETS, TRAINING_JOBS, ObjectKey
from bloomery_operator.reconcile import task as tasks
from bloomery_operator.reconcile.context import (
    Context,
    find,
    observe_job,
    progress_of,
    publish_status,
    read_parent,
    read_storage_secret,
)
from bloomery_operator.reconcile.tensorboard import reconcile_tensorboard
from bloomery_operator.resources import train
from bloomery_operator.resources.jobs import job_name
from bloomery_operator.resources.train import SCRATCH, StartingPoint
from bloomery_operator.status.results import TrainResult, read_model
from bloomery_operator.status.trainingjob import (
    NOT_REGISTERED,
    TrainingJobObservation,
    at_generation,
    derive_status,
    registered,
    registered_start,
    registration_failed,
    starting_point,
    with_tensorboard,
)
from bloomery_operator.status.verdicts import Verdict


async def reconcile(context: Context, key: ObjectKey) -> float | None:
    """Bring one TrainingJob on its way."""
    training_job = read_parent(context, TRAINING_JOBS, TrainingJob, key)
    if training_job is None or not training_job.is_ours:
        return None
    status, wait = await _train(context, training_job)
    status = await _register(context, training_job, status)
    trouble = await reconcile_tensorboard(context, training_job)
    status = with_tensorboard(training_job, status, trouble, context.now())
    await publish_status(context, training_job, status)
    again = context.settings.retry_interval_seconds if trouble is not None else None
    left = await _expire(context, training_job, status)
    return min((seconds for seconds in (wait, again, left) if seconds is not None), default=None)


async def _train(context: Context, training_job: TrainingJob) -> tuple[TrainingJobStatus, float | None]:
    """Bring the training on its way; return its status, and in how many seconds to look again."""
    if training_job.status.is_finished:
        return at_generation(training_job.status, training_job.metadata.generation), None
    observation = await _observe(context, training_job)
    observation = replace(observation, obstacle=await _act(context, observation))
    status = derive_status(observation, context.now())
    if status.is_finished:
        return status, None
    if observation.obstacle is not None or isinstance(observation.start, Verdict):
        return status, context.settings.retry_interval_seconds
    runs = status.phase == "Running" or (observation.job is not None and observation.job.has_running_pods)
    return status, context.settings.progress_poll_seconds if runs else None


async def _observe(context: Context, training_job: TrainingJob) -> TrainingJobObservation:
    namespace = training_job.metadata.namespace
    found = {
        reference.name: find(context, DATASETS, Dataset, ObjectKey(namespace, reference.name))
        for reference in training_job.spec.datasets
    }
    job = await observe_job(context, training_job, train.COMMAND)
    annotations = job.annotations if job else {}
    return TrainingJobObservation(
        training_job=training_job,
        model_uri=f"{train.output_uri(training_job, context.settings)}/model",
        datasets={name: dataset for name, dataset in found.items() if dataset is not None},
        start=await _starting_point(context, training_job) if job is None else None,
        job=job,
        trained_on=train.trained_on(annotations),
        started_from=train.started_from(annotations),
        progress=await progress_of(context, job),
        mlflow_public_url=context.settings.mlflow_public_url,
    )


async def _starting_point(context: Context, training_job: TrainingJob) -> StartingPoint | Verdict | None:
    """Find out what training starts from; asked only until the Job is made, which then records it."""
    wanted, namespace = training_job.spec.initial_model, training_job.metadata.namespace
    if wanted is None:
        return None
    if wanted.training_job is not None:
        other = find(context, TRAINING_JOBS, TrainingJob, ObjectKey(namespace, wanted.training_job))
        return starting_point(wanted.training_job, other)
    if wanted.mlflow is not None:
        environment = await read_storage_secret(context, namespace)
        found = await context.registry.find(environment, wanted.mlflow)
        return registered_start(found, wanted.mlflow, evaluates=bool(training_job.spec.evaluate_only))
    if wanted.weights is not None:
        origin = "scratch" if wanted.weights == SCRATCH else f"weights {wanted.weights}"
        return StartingPoint(weights=wanted.weights, origin=origin)
    return StartingPoint(uri=wanted.uri, origin=wanted.uri or "")


async def _act(context: Context, observation: TrainingJobObservation) -> Verdict | None:
    """Start, suspend, resume or stop the training; return what stands in the way."""
    training_job, job = observation.training_job, observation.job
    if training_job.spec.stop and observation.never_started:
        if job is not None and not job.deleting:
            await tasks.discard(context, training_job, job, train.COMMAND)
        return None
    if job is None:
        return await _start(context, observation)
    if job.is_finished or job.deleting:
        return None
    await _suspend_or_resume(context, observation)
    if training_job.spec.stop:
        await _stop(context, observation)
    return None


async def _start(context: Context, observation: TrainingJobObservation) -> Verdict | None:
    versions, start = observation.dataset_versions, observation.start
    if versions is None or isinstance(start, Verdict):
        return None
    training_job = observation.training_job
    task = train.build_task(training_job, versions, start, context.settings)
    secret = train.build_stop_secret(training_job, secrets.token_urlsafe(32))
    return await tasks.start(context, TRAINING_JOBS, training_job, task, secret=secret)


async def _suspend_or_resume(context: Context, observation: TrainingJobObservation) -> None:
    """Hand ``spec.suspend`` to the Job; with a queue, that is Kueue's alone."""
    training_job, job = observation.training_job, observation.job
    if job is None or training_job.spec.queue:
        return
    # A stopped training needs a pod once more, to evaluate and register what it has.
    wanted = bool(training_job.spec.suspend) and not training_job.spec.stop
    if job.suspended != wanted:
        key = ObjectKey(training_job.metadata.namespace, job.name)
        await context.cluster.merge(JOBS, key, {"spec": {"suspend": wanted}})


async def _stop(context: Context, observation: TrainingJobObservation) -> None:
    """Tell the running trainer to come to its end; told again until it does."""
    training_job, job = observation.training_job, observation.job
    pod = job.current_pod if job else None
    if pod is None or pod.phase != "Running" or pod.ip is None:
        return
    key = ObjectKey(training_job.metadata.namespace, job_name(training_job, train.COMMAND))
    token = train.read_stop_token(await context.cluster.get(SECRETS, key))
    if token is not None:
        await context.stop_trainer(pod, token)


async def _register(context: Context, training_job: TrainingJob, status: TrainingJobStatus) -> TrainingJobStatus:
    """Have registered what MLflow could not take at the end of the training."""
    complete = status.condition("Complete")
    if complete is None or complete.reason != NOT_REGISTERED:
        return status
    trained = await observe_job(context, training_job, train.COMMAND)
    job = await observe_job(context, training_job, train.REGISTER)
    if job is None and trained is not None:
        task = train.build_register_task(training_job, trained.spec_hash)
        await tasks.start(context, TRAINING_JOBS, training_job, task)
    if job is None:
        return status
    result = read_model(TrainResult, job.result) if job.succeeded else None
    if result is not None and result.is_registered:
        return registered(training_job, status, result, context.now())
    return registration_failed(status, job, context.now())


async def _expire(context: Context, training_job: TrainingJob, status: TrainingJobStatus) -> float | None:
    """Delete a finished TrainingJob once its time is over; return in how many seconds that is."""
    ttl, end = training_job.spec.ttl_seconds_after_finished, status.completion_time
    if ttl is None or end is None:
        return None
    left = (end + timedelta(seconds=ttl) - context.now()).total_seconds()
    if left > 0:
        return left
    metadata = training_job.metadata
    await context.cluster.delete(TRAINING_JOBS, ObjectKey(metadata.namespace, metadata.name), uid=metadata.uid)
    return None
