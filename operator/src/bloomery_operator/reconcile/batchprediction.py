"""BatchPrediction: waits for its model, runs one Indexed Job, and is final once that has ended."""

from __future__ import annotations

from dataclasses import replace

from bloomery_operator.api import BatchPrediction
from bloomery_operator.api.batchprediction import BatchPredictionStatus
from bloomery_operator.cluster.kinds import BATCH_PREDICTIONS, ObjectKey
from bloomery_operator.domain.served_model import ServedModel, recorded_model
from bloomery_operator.domain.verdict import Verdict
from bloomery_operator.manifests import predict_job
from bloomery_operator.reconcile.blocked import blocked_by, rejections_block
from bloomery_operator.reconcile.children import create_child
from bloomery_operator.reconcile.context import Context
from bloomery_operator.reconcile.finite_jobs import expire, seconds_to_next_look, set_suspension
from bloomery_operator.reconcile.lookups import (
    observe_job,
    read_resource,
    read_shared_progress,
    require_storage_secret,
    require_store_keys,
)
from bloomery_operator.reconcile.model_resolution import resolve_model
from bloomery_operator.reconcile.status_writer import publish_status
from bloomery_operator.status.batchprediction import (
    BatchPredictionObservation,
    derive_status,
    has_all_counts,
    used_model,
)
from bloomery_operator.status.job_conditions import at_generation


async def reconcile(context: Context, key: ObjectKey) -> float | None:
    """Reconcile one BatchPrediction with its spec."""
    prediction = read_resource(context, BATCH_PREDICTIONS, BatchPrediction, key)
    if prediction is None:
        return None
    prediction, status, next_look = await _predict(context, prediction)
    prediction = await publish_status(context, prediction, status)
    ttl, end = prediction.spec.ttl_seconds_after_finished, status.completion_time
    if ttl is None or end is None:
        return next_look
    return await expire(context, BATCH_PREDICTIONS, prediction, end=end, ttl=ttl)


async def _predict(
    context: Context, prediction: BatchPrediction
) -> tuple[BatchPrediction, BatchPredictionStatus, float | None]:
    """Advance the prediction; return it, its status now, and the seconds until the next look."""
    if prediction.status.is_finished:
        return prediction, at_generation(prediction.status, prediction.metadata.generation), None
    observation = await _observe(context, prediction)
    if prediction.status.phase is None:
        # Before its Job: the write fails if somebody has changed or deleted the object meanwhile.
        prediction = await publish_status(context, prediction, derive_status(observation, context.now()))
        observation = replace(observation, prediction=prediction)
    observation = replace(observation, blocked_by=await _act(context, observation))
    status = derive_status(observation, context.now())
    # No watch informs of a missing Secret, or of a model of the registry.
    is_waiting = observation.blocked_by is not None or isinstance(observation.model, Verdict)
    next_look = seconds_to_next_look(context, status, observation.job, is_waiting=is_waiting)
    return prediction, status, next_look


async def _observe(context: Context, prediction: BatchPrediction) -> BatchPredictionObservation:
    job = await observe_job(context, prediction, predict_job.COMMAND, has_result=has_all_counts)
    model: ServedModel | Verdict | None
    if job is not None:
        model = recorded_model(job.annotations)
    else:
        # An alias is resolved once: a prediction whose Job was deleted goes on with the model that it began with.
        model = used_model(prediction.status)
        model = model or await resolve_model(context, prediction.metadata.namespace, prediction.spec.model)
    progress = await read_shared_progress(context, job)
    return BatchPredictionObservation(prediction=prediction, model=model, job=job, progress=progress)


async def _act(context: Context, observation: BatchPredictionObservation) -> Verdict | None:
    """Start, suspend or resume the prediction; return the verdict that blocks it."""
    prediction, job, model = observation.prediction, observation.job, observation.model
    if job is None:
        return await blocked_by(_start(context, prediction, model)) if isinstance(model, ServedModel) else None
    # With a queue, only Kueue suspends and resumes.
    if not job.is_finished and not job.deleting and not prediction.spec.queue:
        await set_suspension(context, prediction, job, suspend=bool(prediction.spec.suspend))
    return None


async def _start(context: Context, prediction: BatchPrediction, model: ServedModel) -> None:
    """Create the Job.

    Raises:
        Blocked: a Secret is missing, or the Job cannot be created.
    """
    namespace = prediction.metadata.namespace
    await require_storage_secret(context, namespace)
    for field, name in predict_job.store_secrets(prediction).items():
        await require_store_keys(context, namespace, name, field=field)
    with rejections_block():
        await create_child(context, prediction, predict_job.build_job(prediction, model, context.settings))
