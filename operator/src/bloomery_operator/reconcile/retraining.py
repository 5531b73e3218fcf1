"""Retraining: makes a TrainingJob for each trigger, one at a time, and keeps the last ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bloomery_operator.api import Dataset, InvalidResource, Retraining, TrainingJob
from bloomery_operator.api.base import Manifest
from bloomery_operator.api.reasons import Reason
from bloomery_operator.cluster.kinds import DATASETS, RETRAININGS, TRAINING_JOBS, ObjectKey
from bloomery_operator.domain.cron import CronSchedule, read_schedule
from bloomery_operator.domain.ownership import controller_uid
from bloomery_operator.domain.registered_name import name_in_registry
from bloomery_operator.domain.served_model import ServedModel
from bloomery_operator.domain.starting_point import starting_point_from_registry
from bloomery_operator.domain.trigger import TriggeredJob, read_triggered
from bloomery_operator.domain.verdict import Verdict
from bloomery_operator.manifests.retraining import build_training_job
from bloomery_operator.reconcile.blocked import Blocked, rejections_block
from bloomery_operator.reconcile.children import create_child
from bloomery_operator.reconcile.context import Context
from bloomery_operator.reconcile.lookups import find_resource, is_up_to_date, read_resource, read_storage_secret
from bloomery_operator.reconcile.status_writer import publish_status
from bloomery_operator.status.retraining import RetrainingObservation, derive_status, next_trigger


async def reconcile(context: Context, key: ObjectKey) -> float | None:
    """Reconcile one Retraining with its spec."""
    retraining = read_resource(context, RETRAININGS, Retraining, key)
    if retraining is None:
        return None
    observation = await _observe(context, retraining)
    try:
        started = await _start(context, observation)
        observation = replace(observation, jobs=(*started, *observation.jobs))
    except Blocked as blocked:
        observation = replace(observation, blocked_by=blocked.verdict)
    retraining = await publish_status(context, retraining, derive_status(observation, context.now()))
    await _delete_old_jobs(context, replace(observation, retraining=retraining))
    return _seconds_to_next_look(context, observation)


async def _observe(context: Context, retraining: Retraining) -> RetrainingObservation:
    namespace, spec = retraining.metadata.namespace, retraining.spec
    names = [reference.name for reference in spec.template.spec.datasets]
    datasets = {name: find_resource(context, DATASETS, Dataset, ObjectKey(namespace, name)) for name in names}
    schedule = read_schedule(spec.schedule, spec.time_zone, field="spec.schedule") if spec.schedule else None
    observation = RetrainingObservation(
        retraining=retraining,
        jobs=await _find_jobs(context, retraining),
        datasets={name: dataset for name, dataset in datasets.items() if dataset is not None},
        schedule=schedule,
    )
    if observation.active is not None:
        # It moves the alias at its end; its progress is no reason to ask MLflow.
        return observation
    # A training that has just ended may have moved the alias.
    champion = await _find_champion(context, retraining, use_cache=retraining.status.active is None)
    return replace(observation, champion=champion)


async def _find_jobs(context: Context, retraining: Retraining) -> tuple[TriggeredJob, ...]:
    """Return the Retraining's TrainingJobs, the newest first."""
    metadata, active = retraining.metadata, retraining.status.active
    manifests = context.object_cache.controlled_by(TRAINING_JOBS, metadata.namespace, metadata.uid)
    if active is not None and all(manifest["metadata"]["name"] != active for manifest in manifests):
        # The event of the status may overtake that of the TrainingJob.
        live = await context.cluster.get(TRAINING_JOBS, ObjectKey(metadata.namespace, active))
        manifests += [live] if live is not None and controller_uid(live) == metadata.uid else []
    return _parse_jobs(manifests)


def _parse_jobs(manifests: Sequence[Manifest]) -> tuple[TriggeredJob, ...]:
    jobs = []
    for manifest in manifests:
        if "deletionTimestamp" in manifest["metadata"]:
            continue
        try:
            jobs.append(TrainingJob.parse(manifest))
        except InvalidResource:
            # Its own condition says so.
            continue
    return read_triggered(jobs)


async def _find_champion(context: Context, retraining: Retraining, *, use_cache: bool) -> ServedModel | Verdict | None:
    """Return the version that trainings start from and have to beat; None if they move no alias."""
    metadata, output = retraining.metadata, retraining.spec.template.spec.output
    if output.promote is None:
        return None
    name = name_in_registry(
        metadata.namespace,
        output.registered_model or metadata.name,
        namespaced=context.settings.has_namespaced_models,
    )
    environment = await read_storage_secret(context, metadata.namespace)
    reference = f"models:/{name}@{output.promote.alias}"
    return await context.registry.find(environment, reference, use_cache=use_cache)


async def _start(context: Context, observation: RetrainingObservation) -> tuple[TriggeredJob, ...]:
    """Make the TrainingJob that is due; return it.

    Raises:
        Blocked: the champion cannot be looked up, or the TrainingJob cannot be created.
    """
    retraining, trigger = observation.retraining, next_trigger(observation, context.now())
    if trigger is None:
        return ()
    champion = await _find_champion(context, retraining, use_cache=False)
    manifest = build_training_job(retraining, trigger, _starting_model(champion))
    if not await is_up_to_date(context, RETRAININGS, retraining):
        return ()
    with rejections_block():
        await create_child(context, retraining, manifest)
    key = ObjectKey(retraining.metadata.namespace, manifest["metadata"]["name"])
    # Read back, as a former process may have made it, for another trigger.
    live = await context.cluster.get(TRAINING_JOBS, key)
    return _parse_jobs([live] if live is not None else [])


def _starting_model(champion: ServedModel | Verdict | None) -> ServedModel | None:
    """Return the champion, if there is one that a training can start from.

    Raises:
        Blocked: MLflow does not say whether there is one.
    """
    if isinstance(champion, Verdict):
        if champion.reason != Reason.MODEL_NOT_FOUND:
            raise Blocked(champion)
        return None
    if champion is None or isinstance(starting_point_from_registry(champion, champion.display), Verdict):
        return None
    return champion


async def _delete_old_jobs(context: Context, observation: RetrainingObservation) -> None:
    """Delete the TrainingJobs that ended before the last ones, once the status has their results."""
    retraining = observation.retraining
    beyond_limit = [one.job for one in observation.ended[retraining.spec.history_limit :]]
    old = [job for job in beyond_limit if not job.status.awaits_registration]
    if not old or not await is_up_to_date(context, RETRAININGS, retraining):
        return
    for job in old:
        key = ObjectKey(job.metadata.namespace, job.metadata.name)
        await context.cluster.delete(TRAINING_JOBS, key, uid=job.metadata.uid)


def _seconds_to_next_look(context: Context, observation: RetrainingObservation) -> float | None:
    if observation.blocked_by is not None:
        return context.settings.retry_interval_seconds
    if observation.active is not None or not isinstance(observation.schedule, CronSchedule):
        return None
    return observation.schedule.seconds_to_next(context.now())
