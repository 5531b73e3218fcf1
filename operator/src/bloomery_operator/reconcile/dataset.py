"""Dataset: one preparation Job for each spec and each time of its refresh, and its result in the status."""

from __future__ import annotations

from bloomery_operator.api import Dataset
from bloomery_operator.cluster.kinds import DATASETS, ObjectKey
from bloomery_operator.domain.cron import CronSchedule, read_schedule
from bloomery_operator.domain.verdict import Verdict
from bloomery_operator.manifests import prepare_job
from bloomery_operator.manifests.job import TrainerTask
from bloomery_operator.manifests.sources import SOURCE_PREFIX
from bloomery_operator.reconcile import trainer_jobs
from bloomery_operator.reconcile.blocked import blocked_by
from bloomery_operator.reconcile.context import Context
from bloomery_operator.reconcile.lookups import observe_job, read_job_progress, read_resource, require_store_keys
from bloomery_operator.reconcile.status_writer import publish_status
from bloomery_operator.status.dataset import DatasetObservation, derive_status
from bloomery_operator.status.workloads import JobView


async def reconcile(context: Context, key: ObjectKey) -> float | None:
    """Reconcile one Dataset with its spec."""
    dataset = read_resource(context, DATASETS, Dataset, key)
    if dataset is None:
        return None
    task = prepare_job.build_task(dataset, context.settings)
    is_prepared = dataset.status.prepared_spec == task.hash
    job = await observe_job(context, dataset, prepare_job.COMMAND, needs_result=not is_prepared)
    schedule = _read_refresh_schedule(dataset)
    observation = DatasetObservation(
        dataset=dataset,
        spec_hash=task.hash,
        job_hash=task.job_hash,
        job=job,
        blocked_by=await _act(context, dataset, task, job),
        progress=await read_job_progress(context, job),
        mlflow_public_url=context.settings.mlflow_public_url,
        refresh_schedule=schedule,
    )
    status = derive_status(observation, context.now())
    await publish_status(context, dataset, status)
    # No watch informs of a pod that cannot be created.
    if observation.blocked_by is not None or (job is not None and job.lacks_pods):
        return context.settings.retry_interval_seconds
    if status.phase == "Preparing":
        return context.settings.progress_poll_seconds
    return schedule.seconds_to_next(context.now()) if isinstance(schedule, CronSchedule) else None


def _read_refresh_schedule(dataset: Dataset) -> CronSchedule | Verdict | None:
    refresh = dataset.spec.refresh
    if refresh is None:
        return None
    return read_schedule(refresh.schedule, refresh.time_zone, field="spec.refresh.schedule")


async def _act(context: Context, dataset: Dataset, task: TrainerTask, job: JobView | None) -> Verdict | None:
    """Start the preparation, or discard an outdated one; return the verdict that blocks it."""
    is_prepared = dataset.status.prepared_spec == task.hash
    if job is None and not is_prepared:
        return await blocked_by(_start(context, dataset, task))
    if job is not None and not job.deleting and _is_outdated(job, task, is_prepared=is_prepared):
        await trainer_jobs.discard(context, dataset, job, prepare_job.COMMAND)
    return None


async def _start(context: Context, dataset: Dataset, task: TrainerTask) -> None:
    for prefix, name in prepare_job.source_secrets(dataset).items():
        field = "spec.source" if prefix == SOURCE_PREFIX else "spec.append[]"
        await require_store_keys(context, dataset.metadata.namespace, name, field=field)
    await trainer_jobs.start(context, dataset, task)


def _is_outdated(job: JobView, task: TrainerTask, *, is_prepared: bool) -> bool:
    has_other_task = job.spec_hash != task.job_hash
    if is_prepared:
        # The spec was reverted: a Job that still runs is for a spec that is no longer wanted.
        return has_other_task and not job.is_finished
    # A Job whose result is lost runs again, and finds its work in the store.
    return has_other_task or job.result_pod_is_gone
