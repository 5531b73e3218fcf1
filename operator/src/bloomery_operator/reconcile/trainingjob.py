"""TrainingJob: waits for its Datasets and initial model, runs one training Job, and is final once that has ended."""

from __future__ import annotations

import secrets
from dataclasses import replace
from datetime import datetime, timedelta

from bloomery_operator.api import Dataset, TrainingJob
from bloomery_operator.api.reasons import Reason
from bloomery_operator.api.trainingjob import InitialModel, TrainingJobStatus
from bloomery_operator.cluster.kinds import DATASETS, JOBS, OWNERS, SECRETS, TRAINING_JOBS, ObjectKey
from bloomery_operator.domain.names import config_name, job_name
from bloomery_operator.domain.ownership import controller_uid
from bloomery_operator.domain.ports import PROGRESS_PORT
from bloomery_operator.domain.registered_name import rejected_name
from bloomery_operator.domain.starting_point import (
    SCRATCH,
    StartingPoint,
    starting_point_from_job,
    starting_point_from_registry,
)
from bloomery_operator.domain.timestamps import read_time
from bloomery_operator.domain.verdict import Verdict
from bloomery_operator.manifests import register_job, train_job
from bloomery_operator.reconcile import trainer_jobs
from bloomery_operator.reconcile.blocked import Blocked, blocked_by
from bloomery_operator.reconcile.context import Context
from bloomery_operator.reconcile.finite_jobs import expire, seconds_to_next_look, set_suspension
from bloomery_operator.reconcile.lookups import (
    find_resource,
    observe_job,
    read_job_progress,
    read_resource,
    read_storage_secret,
)
from bloomery_operator.reconcile.status_writer import publish_status
from bloomery_operator.reconcile.tensorboard import reconcile_tensorboard
from bloomery_operator.status.job_conditions import at_generation
from bloomery_operator.status.trainer_results import TrainResult, read_model
from bloomery_operator.status.trainingjob import (
    TrainingJobObservation,
    derive_status,
    registered,
    registration_failed,
    with_tensorboard,
)
from bloomery_operator.status.workloads import JobView, PodView

_STOP_TOKEN_BYTES = 32
_TRAINER_START = timedelta(seconds=60)
"""Time that a trainer's pod has to open its port."""


async def reconcile(context: Context, key: ObjectKey) -> float | None:
    """Reconcile one TrainingJob with its spec."""
    training_job = read_resource(context, TRAINING_JOBS, TrainingJob, key)
    if training_job is None or not training_job.is_ours:
        return None
    training_job, status, next_look = await _train(context, training_job)
    status = await _register(context, training_job, status)
    tensorboard_blocked_by = await blocked_by(reconcile_tensorboard(context, training_job))
    status = with_tensorboard(training_job, status, tensorboard_blocked_by, context.now())
    training_job = await publish_status(context, training_job, status)
    retry = context.settings.retry_interval_seconds if tensorboard_blocked_by is not None else None
    expiry = await _expire(context, training_job, status)
    return min((seconds for seconds in (next_look, retry, expiry) if seconds is not None), default=None)


async def _train(context: Context, training_job: TrainingJob) -> tuple[TrainingJob, TrainingJobStatus, float | None]:
    """Advance the training; return the job, its status now, and the seconds until the next look."""
    if training_job.status.is_finished:
        return training_job, at_generation(training_job.status, training_job.metadata.generation), None
    observation = await _observe(context, training_job)
    if training_job.status.phase is None:
        # Before its children: the write fails if somebody has changed or deleted the job meanwhile.
        training_job = await publish_status(context, training_job, derive_status(observation, context.now()))
        observation = replace(observation, training_job=training_job)
    observation = replace(observation, blocked_by=await _act(context, observation))
    status = derive_status(observation, context.now())
    # No watch informs of a missing Secret, or of a model of the registry.
    is_waiting = observation.blocked_by is not None or isinstance(observation.start, Verdict)
    next_look = seconds_to_next_look(context, status, observation.job, is_waiting=is_waiting)
    return training_job, status, next_look


async def _observe(context: Context, training_job: TrainingJob) -> TrainingJobObservation:
    namespace = training_job.metadata.namespace
    datasets = {
        reference.name: find_resource(context, DATASETS, Dataset, ObjectKey(namespace, reference.name))
        for reference in training_job.spec.datasets
    }
    job = await observe_job(context, training_job, train_job.COMMAND)
    annotations = job.annotations if job else {}
    return TrainingJobObservation(
        training_job=training_job,
        model_uri=f"{train_job.output_uri(training_job, context.settings)}/model",
        datasets={name: dataset for name, dataset in datasets.items() if dataset is not None},
        start=await _resolve_starting_point(context, training_job) if job is None else None,
        job=job,
        trained_on=train_job.trained_on(annotations),
        started_from=train_job.started_from(annotations),
        progress=await read_job_progress(context, job),
        mlflow_public_url=context.settings.mlflow_public_url,
    )


async def _resolve_starting_point(context: Context, training_job: TrainingJob) -> StartingPoint | Verdict | None:
    """Resolve the initial model; only until the Job exists, which records it."""
    source, namespace = training_job.spec.initial_model, training_job.metadata.namespace
    match source:
        case None:
            return None
        case InitialModel(training_job=str(name)):
            other = find_resource(context, TRAINING_JOBS, TrainingJob, ObjectKey(namespace, name))
            return starting_point_from_job(name, other)
        case InitialModel(mlflow=str(reference)):
            model = await context.registry.find(await read_storage_secret(context, namespace), reference)
            evaluate_only = bool(training_job.spec.evaluate_only)
            return starting_point_from_registry(model, reference, evaluate_only=evaluate_only)
        case InitialModel(weights=str(weights)):
            return StartingPoint(weights=weights, origin="scratch" if weights == SCRATCH else f"weights {weights}")
    return StartingPoint(uri=source.uri, origin=source.uri or "")


async def _act(context: Context, observation: TrainingJobObservation) -> Verdict | None:
    """Start, suspend, resume or stop the training; return the verdict that blocks it."""
    training_job, job = observation.training_job, observation.job
    if training_job.spec.stop and observation.never_started:
        if job is not None and not job.deleting:
            await trainer_jobs.discard(context, training_job, job, train_job.COMMAND)
        return None
    if job is None:
        return await blocked_by(_start(context, observation))
    if job.is_finished or job.deleting:
        return None
    await _suspend_or_resume(context, observation)
    return await _stop(context, observation) if training_job.spec.stop else None


def _require_model_name(context: Context, training_job: TrainingJob) -> None:
    """Check that a job may register its model under its name.

    Raises:
        Blocked: it has the prefix of another namespace, or is too long.
    """

    def is_namespace(name: str) -> bool:
        return any(key.namespace == name for kind in OWNERS for key, _ in context.object_cache.items(kind))

    namespaced = context.settings.has_namespaced_models
    rejection = rejected_name(training_job, namespaced=namespaced, is_namespace=is_namespace)
    if rejection is not None:
        raise Blocked(rejection)


async def _start(context: Context, observation: TrainingJobObservation) -> None:
    versions, start = observation.dataset_versions, observation.start
    if versions is None or isinstance(start, Verdict):
        return
    training_job = observation.training_job
    _require_model_name(context, training_job)
    token = secrets.token_urlsafe(_STOP_TOKEN_BYTES)
    task = train_job.build_task(training_job, versions, start, context.settings, stop_token=token)
    await trainer_jobs.start(context, training_job, task)


async def _suspend_or_resume(context: Context, observation: TrainingJobObservation) -> None:
    """Copy ``spec.suspend`` to the Job; with a queue, only Kueue does that."""
    training_job, job = observation.training_job, observation.job
    if job is None or training_job.spec.queue:
        return
    # A stopped training needs a pod once more, to evaluate and register its best model.
    suspend = bool(training_job.spec.suspend) and not training_job.spec.stop
    await set_suspension(context, training_job, job, suspend=suspend)


async def _stop(context: Context, observation: TrainingJobObservation) -> Verdict | None:
    """Request the running trainer to stop; each reconcile repeats it until the trainer has stopped.

    Returns:
        Why the request cannot reach the trainer.
    """
    training_job, job = observation.training_job, observation.job
    pod = job.current_pod if job else None
    if job is None or pod is None or not pod.is_reachable or pod.has_ended:
        return None
    token = await _read_stop_token(context, training_job, job)
    if token is None:
        name = config_name(training_job, train_job.COMMAND, job.spec_hash)
        problem = f"the Secret {name!r} has no token in the key {train_job.STOP_TOKEN_VARIABLE!r}"
    elif await context.stop_trainer(pod, token) or _has_just_started(pod, context.now()):
        return None
    else:
        problem = f"pod {pod.name} does not accept the request on port {PROGRESS_PORT}; check network policies"
    return Verdict(Reason.TRAINER_UNREACHABLE, f"spec.stop is true, but {problem}. The operator repeats the request.")


async def _read_stop_token(context: Context, training_job: TrainingJob, job: JobView) -> str | None:
    """Return the token that the training's pods require; its Job may be of a release that had a Secret for it alone."""
    names = (config_name(training_job, train_job.COMMAND, job.spec_hash), job.name)
    for name in names:
        secret = await context.cluster.get(SECRETS, ObjectKey(training_job.metadata.namespace, name))
        if (token := train_job.read_stop_token(secret)) is not None:
            return token
    return None


def _has_just_started(pod: PodView, now: datetime) -> bool:
    """Return whether a trainer may not have opened its port yet."""
    created = read_time(pod.created)
    return created is not None and now - created < _TRAINER_START


async def _register(context: Context, training_job: TrainingJob, status: TrainingJobStatus) -> TrainingJobStatus:
    """Register a model that MLflow could not take at the end of the training.

    A result that was lost with its pod is found in the same way: the output folder has it, and says whether its model
    is registered.
    """
    if not status.awaits_registration:
        return status
    trained = await observe_job(context, training_job, train_job.COMMAND)
    job = await observe_job(context, training_job, register_job.COMMAND)
    if job is None and trained is not None:
        name = config_name(training_job, train_job.COMMAND, trained.spec_hash)
        secret = await context.cluster.get(SECRETS, ObjectKey(training_job.metadata.namespace, name))
        task = register_job.build_task(training_job, trained.spec_hash, has_secret=secret is not None)
        # The status keeps its reason until the model is registered, so a verdict would not be shown.
        await blocked_by(trainer_jobs.start(context, training_job, task))
    if job is None:
        return status
    result = read_model(TrainResult, job.result) if job.succeeded else None
    if result is not None and result.is_registered:
        url = context.settings.mlflow_public_url
        return registered(training_job, status, result, context.now(), mlflow_public_url=url)
    return registration_failed(status, job, context.now())


async def _expire(context: Context, training_job: TrainingJob, status: TrainingJobStatus) -> float | None:
    """Delete a finished TrainingJob whose TTL has passed; return the seconds that are left of it.

    The TTL of a job whose model was registered later counts from then: before, the model would be lost.
    """
    ttl, end = training_job.spec.ttl_seconds_after_finished, status.completion_time
    if ttl is None or end is None or status.awaits_registration:
        return None
    registered_at = _registration_time(context, training_job)
    return await expire(context, TRAINING_JOBS, training_job, end=max(end, registered_at or end), ttl=ttl)


def _registration_time(context: Context, training_job: TrainingJob) -> datetime | None:
    """Return the end of the Job that registered the model later, if there was one."""
    key = ObjectKey(training_job.metadata.namespace, job_name(training_job, register_job.COMMAND))
    manifest = context.object_cache.get(JOBS, key)
    if manifest is None or controller_uid(manifest) != training_job.metadata.uid:
        return None
    return JobView.of(manifest, ()).end_time
