"""Status of a BatchPrediction: conditions and printed fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bloomery_operator.api import BatchPrediction, Condition
from bloomery_operator.api.base import ApiModel
from bloomery_operator.api.batchprediction import BatchPredictionStatus, PredictionProgress, UsedModel
from bloomery_operator.api.durations import go_duration
from bloomery_operator.api.reasons import Reason
from bloomery_operator.domain.served_model import ServedModel
from bloomery_operator.domain.verdict import Verdict, first_verdict
from bloomery_operator.manifests.accelerators import unused_accelerators
from bloomery_operator.status.conditions import condition
from bloomery_operator.status.job_conditions import (
    at_generation,
    job_fields,
    not_started,
    queued,
    resumption,
    suspension,
)
from bloomery_operator.status.trainer_results import read_model
from bloomery_operator.status.workloads import JobView, job_failure, sidecars_running


class PredictionReport(ApiModel):
    """Counts of all pods of a prediction, as each of them reports them."""

    images: int = 0
    ignored: Mapping[str, int] = {}
    total: int = 0
    images_per_second: float | None = None
    engine: str | None = None
    digest: str | None = None

    @property
    def ignored_files(self) -> int:
        """Number of files without an answer."""
        return sum(self.ignored.values())

    @property
    def done(self) -> int:
        """Number of files that are done."""
        return self.images + self.ignored_files

    @property
    def is_complete(self) -> bool:
        """Whether all files are done."""
        return 0 < self.total <= self.done


def last_report(job: JobView) -> PredictionReport | None:
    """Return the report of the pod that ended last, which has the counts of all; None if none can be read."""
    reports = (read_model(PredictionReport, result) for result in job.results)
    return max((report for report in reports if report is not None), key=lambda report: report.done, default=None)


def has_all_counts(job: JobView) -> bool:
    """Return whether a finished Job's pods have left the counts of all files, or an error."""
    report = last_report(job)
    return bool(job.termination_result) if job.failure is not None else report is not None and report.is_complete


@dataclass(frozen=True, kw_only=True)
class BatchPredictionObservation:
    """Everything that a BatchPrediction's status depends on."""

    prediction: BatchPrediction
    model: ServedModel | Verdict | None = None
    """The resolved model, or what it waits for; with a Job, the model that this records."""
    job: JobView | None = None
    blocked_by: Verdict | None = None
    """Why the Job could not be created: a missing Secret, a rejected manifest."""
    progress: Mapping[str, Any] | None = None


def _model_not_ready(observation: BatchPredictionObservation) -> Verdict | None:
    return observation.model if observation.job is None and isinstance(observation.model, Verdict) else None


def _blocked(observation: BatchPredictionObservation) -> Verdict | None:
    return observation.blocked_by if observation.job is None else None


def _not_started(observation: BatchPredictionObservation) -> Verdict | None:
    job = observation.job
    if job is not None and any(pod.phase in ("Running", "Succeeded") and not pod.node_lost for pod in job.pods):
        return None
    return not_started(job, Verdict(Reason.PENDING, "The prediction's pods are about to start."))


CHECKS = (_model_not_ready, _blocked, _not_started)


def derive_status(observation: BatchPredictionObservation, now: datetime) -> BatchPredictionStatus:
    """Return the status; that of a finished prediction stays as it is."""
    prediction, job = observation.prediction, observation.job
    previous, generation = prediction.status, prediction.metadata.generation
    if previous.is_finished:
        return at_generation(previous, generation)
    status = previous.model_copy(
        update={
            **job_fields(previous, job, _conditions(observation), generation=generation, now=now),
            "model": _used_model(observation.model) or previous.model,
        }
    )
    if status.is_finished:
        return _finished(status, job, now)
    report = read_model(PredictionReport, observation.progress)
    if report is not None and report.total:
        return _with_counts(status, report)
    return status if status.phase == "Running" else _waiting(status)


def _conditions(observation: BatchPredictionObservation) -> tuple[Condition, ...]:
    job, prediction = observation.job, observation.prediction
    if job is not None and job.succeeded:
        return (condition("Complete", True, _completion(prediction, job)),)
    failure = job_failure(job) if job is not None else None
    if failure is not None:
        return (condition("Failed", True, failure),)
    suspended = _suspended(prediction, job)
    if suspended is not None:
        return suspension(suspended, is_queued=bool(prediction.spec.queue))
    waiting = first_verdict(CHECKS, observation)
    verdict = waiting or _running_verdict(observation)
    return (condition("Running", waiting is None, verdict), *resumption(prediction.status))


def _suspended(prediction: BatchPrediction, job: JobView | None) -> Verdict | None:
    if job is None or not job.suspended:
        return None
    if prediction.spec.queue:
        return queued(prediction.spec.queue)
    message = "spec.suspend is true, so it has no pods; once it is false, the files without an answer follow."
    return Verdict(Reason.SUSPENDED, message)


def _running_verdict(observation: BatchPredictionObservation) -> Verdict:
    job, resources = observation.job, observation.prediction.spec.resources
    sidecars = (sidecars_running(pod, "prediction") for pod in (job.pods if job else ()))
    sidecar = next((verdict for verdict in sidecars if verdict is not None), None)
    if sidecar is not None and job is not None and not any(pod.is_working for pod in job.pods):
        return sidecar
    message = "The images are being predicted."
    unused = ", ".join(unused_accelerators(resources))
    if unused:
        message += f" The model server computes on NVIDIA's GPUs only: it does not compute on {unused}."
    return Verdict(Reason.PREDICTING, message)


def _completion(prediction: BatchPrediction, job: JobView) -> Verdict:
    report, folder = last_report(job), f"{prediction.spec.output.uri.rstrip('/')}/predictions"
    if report is None or not report.is_complete:
        message = (
            f"The prediction ended, but its counts could not all be read from its pods. The answers are in {folder}."
        )
        return Verdict(Reason.RESULT_LOST, message)
    message = f"{report.images} images are predicted; the answers are in {folder}."
    if report.ignored:
        reasons = ", ".join(f"{reason} {count}" for reason, count in report.ignored.items())
        message += f" {report.ignored_files} files have none, and are listed in ignored/ beside it: {reasons}."
    return Verdict(Reason.PREDICTED, message)


def _finished(status: BatchPredictionStatus, job: JobView | None, now: datetime) -> BatchPredictionStatus:
    report = last_report(job) if job is not None else None
    status = status.model_copy(update={"completion_time": (job.end_time if job else None) or now})
    if report is None:
        return _waiting(status)
    model = (status.model or UsedModel()).model_copy(update={"digest": report.digest} if report.digest else {})
    return _waiting(_with_counts(status, report)).model_copy(update={"engine": report.engine, "model": model})


def _with_counts(status: BatchPredictionStatus, report: PredictionReport) -> BatchPredictionStatus:
    rate, left = report.images_per_second, max(0, report.total - report.done)
    progress = PredictionProgress(
        files=f"{report.done}/{report.total}",
        images_per_second=rate,
        eta=go_duration(left / rate) if rate else None,
    )
    return status.model_copy(
        update={
            "images": report.images,
            "ignored": dict(report.ignored) or None,
            "ignored_files": report.ignored_files,
            "total": report.total,
            "progress": progress,
        }
    )


def _waiting(status: BatchPredictionStatus) -> BatchPredictionStatus:
    """Return the status of a prediction without pods: its counts stay, its speed and ETA do not."""
    if status.progress is None:
        return status
    progress = status.progress.model_copy(update={"images_per_second": None, "eta": None})
    return status.model_copy(update={"progress": progress})


def used_model(status: BatchPredictionStatus) -> ServedModel | None:
    """Return the model that a prediction has begun with, as its status records it; None before."""
    model = status.model
    if status.start_time is None or model is None or model.uri is None:
        return None
    return ServedModel(uri=model.uri, digest=model.digest, name=model.name, version=model.version)


def _used_model(model: ServedModel | Verdict | None) -> UsedModel | None:
    if not isinstance(model, ServedModel):
        return None
    return UsedModel(name=model.name, version=model.version, display=model.display, uri=model.uri, digest=model.digest)
