"""Status of a Dataset: conditions and printed fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bloomery_operator.api import Condition, Dataset
from bloomery_operator.api.dataset import MAX_VERSIONS, DatasetStatus, DatasetVersion, PrepareProgress
from bloomery_operator.api.reasons import Reason
from bloomery_operator.domain.cron import CronSchedule
from bloomery_operator.domain.verdict import Verdict, first_verdict
from bloomery_operator.status.conditions import condition, with_transition_times
from bloomery_operator.status.trainer_results import PrepareResult, read_model
from bloomery_operator.status.workloads import (
    JobView,
    job_failure,
    pod_not_ready_reason,
    pods_refused,
    sidecars_running,
)


@dataclass(frozen=True, kw_only=True)
class DatasetObservation:
    """Everything that a Dataset's status depends on."""

    dataset: Dataset
    spec_hash: str
    """Hash of the preparation that the spec describes."""
    job_hash: str
    """Hash of the Job that runs it."""
    job: JobView | None = None
    blocked_by: Verdict | None = None
    """Why the Job could not be created: a missing Secret, a rejected manifest."""
    progress: Mapping[str, Any] | None = None
    mlflow_public_url: str = ""
    refresh_schedule: CronSchedule | Verdict | None = None
    """The schedule of ``refresh``, or why it is none; None without one."""

    @property
    def is_prepared(self) -> bool:
        """Whether the present spec is prepared already."""
        return self.dataset.status.prepared_spec == self.spec_hash

    @property
    def finished_now(self) -> bool:
        """Whether the Job of this spec has just succeeded."""
        return self.job is not None and self.job.succeeded and self.job.spec_hash == self.job_hash

    @property
    def result(self) -> PrepareResult | None:
        """The result of the preparation; None if it cannot be read."""
        return read_model(PrepareResult, self.job.result) if self.job else None


def _blocked(observation: DatasetObservation) -> Verdict | None:
    return None if observation.is_prepared else observation.blocked_by


def _not_created(observation: DatasetObservation) -> Verdict | None:
    job = observation.job
    if observation.is_prepared or (job and job.spec_hash == observation.job_hash and not job.deleting):
        return None
    return Verdict(Reason.PENDING, "The preparation is about to start.")


def _failed(observation: DatasetObservation) -> Verdict | None:
    if observation.is_prepared or observation.job is None:
        return None
    return job_failure(observation.job)


def _result_lost(observation: DatasetObservation) -> Verdict | None:
    job = observation.job
    if job is None or not observation.finished_now or observation.is_prepared or observation.result is not None:
        return None
    if job.result_pod_is_gone:
        message = "The preparation's pod was removed before its result was read; it runs again and reuses its work."
        return Verdict(Reason.PENDING, message)
    return Verdict(
        Reason.RESULT_LOST,
        "The preparation ended, but its result cannot be read; "
        "set the annotation bloomery.dev/refresh to prepare again (what is in the store is reused).",
        failed=True,
    )


def _not_started(observation: DatasetObservation) -> Verdict | None:
    job = observation.job
    if observation.is_prepared or job is None or job.succeeded:
        return None
    refused = pods_refused(job.rejection)
    if refused is not None:
        return refused
    pod = job.current_pod
    if pod is None:
        return Verdict(Reason.PENDING, "The preparation's pod is about to start.")
    if pod.phase != "Pending":
        return None
    return pod_not_ready_reason(pod) or Verdict(Reason.PENDING, f"Pod {pod.name} is starting.")


def _preparing(observation: DatasetObservation) -> Verdict | None:
    if observation.is_prepared or observation.finished_now:
        return None
    sidecars = sidecars_running(observation.job.current_pod, "preparation") if observation.job else None
    if sidecars is not None:
        return sidecars
    progress = _prepare_progress(observation)
    if progress is None or not progress.total:
        return Verdict(Reason.PREPARING, "The images are being listed and checked.")
    return Verdict(Reason.PREPARING, f"{progress.images} of {progress.total} images are prepared.")


CHECKS = (_blocked, _not_created, _failed, _result_lost, _not_started, _preparing)


def derive_status(observation: DatasetObservation, now: datetime) -> DatasetStatus:
    """Return the status."""
    previous = observation.dataset.status
    verdict = first_verdict(CHECKS, observation)
    status = previous
    result = observation.result
    if observation.finished_now and not observation.is_prepared and verdict is None and result is not None:
        status = _with_result(observation, result, now)
    return status.model_copy(
        update={
            "observed_generation": observation.dataset.metadata.generation,
            "phase": _phase(verdict),
            "last_refresh_time": _last_refresh_time(observation, now),
            "progress": _prepare_progress(observation) if verdict and verdict.reason == Reason.PREPARING else None,
            "conditions": with_transition_times(
                (_ready_condition(verdict, status), *_wrong_refresh(observation)),
                previous=previous.conditions,
                generation=observation.dataset.metadata.generation,
                now=now,
            ),
        }
    )


def _last_refresh_time(observation: DatasetObservation, now: datetime) -> datetime | None:
    """Return the time of the schedule for which the images are prepared; a later one waits for a running Job.

    It is part of the preparation's hash. It is recorded here first, so that an operator that restarts starts no other.
    """
    dataset, schedule, job = observation.dataset, observation.refresh_schedule, observation.job
    last = dataset.status.last_refresh_time
    is_idle = observation.is_prepared or (job is not None and job.is_finished)
    if not isinstance(schedule, CronSchedule) or not is_idle:
        return last
    return schedule.due(since=last or dataset.metadata.creation_timestamp or now, now=now) or last


def _wrong_refresh(observation: DatasetObservation) -> tuple[Condition, ...]:
    """Return the condition that exists only while the schedule of ``refresh`` is none."""
    schedule = observation.refresh_schedule
    return (condition("RefreshScheduled", False, schedule),) if isinstance(schedule, Verdict) else ()


def _phase(verdict: Verdict | None) -> str:
    if verdict is None:
        return "Ready"
    if verdict.failed:
        return "Failed"
    return "Preparing" if verdict.reason in (Reason.PREPARING, Reason.SIDECAR_RUNNING) else "Pending"


def _ready_condition(verdict: Verdict | None, status: DatasetStatus) -> Condition:
    if verdict is not None:
        return condition("Ready", False, verdict)
    message = f"{status.images} images in {status.class_count} classes are prepared."
    ignored = status.ignored or {}
    if ignored:
        reasons = ", ".join(f"{reason} {count}" for reason, count in ignored.items())
        message += f" {sum(ignored.values())} files are left out: {reasons}."
    warnings = [f"Warning: {warning}." for warning in status.warnings]
    return condition("Ready", True, Verdict(Reason.PREPARED, " ".join([message, *warnings])))


def _prepare_progress(observation: DatasetObservation) -> PrepareProgress | None:
    return read_model(PrepareProgress, observation.progress)


def _with_result(observation: DatasetObservation, result: PrepareResult, now: datetime) -> DatasetStatus:
    previous = observation.dataset.status
    run_url = result.mlflow.url(observation.mlflow_public_url) if result.mlflow else None
    return previous.model_copy(
        update={
            "prepared_spec": observation.spec_hash,
            "report": f"{run_url}/artifacts/report.html" if run_url else result.report,
            "version": result.version,
            "uri": result.uri,
            "images": result.images,
            "class_count": len(result.classes) if result.class_count is None else result.class_count,
            "classes": result.classes,
            "ignored": result.ignored or None,
            "quality": result.quality,
            "warnings": result.warnings,
            "versions": _with_version(previous.versions, result, now),
        }
    )


def _with_version(
    versions: tuple[DatasetVersion, ...], result: PrepareResult, now: datetime
) -> tuple[DatasetVersion, ...]:
    """Return the versions with a new one first; the same content is the same version."""
    if any(v.version == result.version for v in versions):
        return versions
    newest = DatasetVersion(
        ordinal=max((v.ordinal for v in versions), default=0) + 1,
        version=result.version,
        images=result.images,
        created=now,
        uri=result.uri,
    )
    return (newest, *versions)[:MAX_VERSIONS]
