"""A TrainingJob's conditions and fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from bloomery_operator.api import Condition, Dataset, TrainingJob
from bloomery_operator.api.dataset import DatasetVersion
from bloomery_operator.api.trainingjob import MlflowRun, Model, TrainedOn, TrainingJobStatus, TrainProgress
from bloomery_operator.status.results import RunReference, TrainerProgress, TrainResult, read_model
from bloomery_operator.status.verdicts import Verdict, condition, dated, first_verdict
from bloomery_operator.status.workload import JobView, job_failure, pod_trouble


@dataclass(frozen=True, kw_only=True)
class TrainingJobObservation:
    """All that a TrainingJob's status depends on."""

    training_job: TrainingJob
    model_uri: str
    """Where the trainer leaves the model folder."""
    dataset: Dataset | None = None
    job: JobView | None = None
    trained_on: TrainedOn | None = None
    obstacle: Verdict | None = None
    """What kept the Job from being made: a missing Secret, a refused manifest."""
    progress: Mapping[str, Any] | None = None
    mlflow_public_url: str = ""

    @property
    def dataset_version(self) -> DatasetVersion | None:
        """The version to train on, once its Dataset has it."""
        wanted = self.training_job.spec.datasets[0].version
        if self.dataset is None or (wanted is None and not self.dataset.status.is_true("Ready")):
            return None
        return self.dataset.find_version(wanted)


def _dataset_name(observation: TrainingJobObservation) -> str:
    return observation.training_job.spec.datasets[0].name


def dataset_missing(observation: TrainingJobObservation) -> Verdict | None:
    """Notice that the Dataset does not exist."""
    if observation.job is not None or observation.dataset is not None:
        return None
    name, namespace = _dataset_name(observation), observation.training_job.metadata.namespace
    return Verdict(
        "DatasetNotFound",
        f"There is no Dataset {name!r} in namespace {namespace!r}; the training starts once it is there and Ready.",
    )


def dataset_failed(observation: TrainingJobObservation) -> Verdict | None:
    """Notice that the Dataset can not be prepared as it stands."""
    dataset = observation.dataset
    if observation.job is not None or observation.dataset_version or dataset is None:
        return None
    ready = dataset.status.condition("Ready")
    if dataset.status.phase != "Failed" or ready is None:
        return None
    return Verdict("DatasetFailed", f"Dataset {_dataset_name(observation)!r} failed: {ready.message}")


def dataset_not_ready(observation: TrainingJobObservation) -> Verdict | None:
    """Notice that the Dataset is still being prepared."""
    dataset = observation.dataset
    if observation.job is not None or observation.dataset_version or dataset is None:
        return None
    if dataset.status.is_true("Ready"):
        wanted = observation.training_job.spec.datasets[0].version
        known = ", ".join(f"{v.ordinal} ({v.version[:12]})" for v in dataset.status.versions)
        return Verdict(
            "DatasetVersionNotFound",
            f"Dataset {_dataset_name(observation)!r} has no version {wanted!r}; it has: {known}.",
        )
    ready = dataset.status.condition("Ready")
    detail = f": {ready.message}" if ready else "."
    return Verdict("DatasetNotReady", f"Dataset {_dataset_name(observation)!r} is not ready yet{detail}")


WAITING_CHECKS = (dataset_missing, dataset_failed, dataset_not_ready)


def _obstructed(observation: TrainingJobObservation) -> Verdict | None:
    return observation.obstacle if observation.job is None else None


def _not_started(observation: TrainingJobObservation) -> Verdict | None:
    job = observation.job
    if job is None or job.current_pod is None:
        return Verdict("Pending", "The training's pod is about to start.")
    if job.current_pod.phase != "Pending":
        return None
    return pod_trouble(job.current_pod) or Verdict("Pending", f"Pod {job.current_pod.name} is starting.")


CHECKS = (*WAITING_CHECKS, _obstructed, _not_started)


def derive_status(observation: TrainingJobObservation, now: datetime) -> TrainingJobStatus:
    """Return the status that the observation amounts to; a finished job's stays as it is."""
    training_job = observation.training_job
    previous = training_job.status
    if previous.is_finished:
        return previous
    conditions = _conditions(observation)
    job = observation.job
    status = previous.model_copy(
        update={
            "observed_generation": training_job.metadata.generation,
            "phase": _phase(conditions[0]),
            "dataset": observation.trained_on or previous.dataset,
            "start_time": job.start_time if job else None,
            "restarts": job.failed_pods if job else None,
            "conditions": dated(
                conditions, previous=previous.conditions, generation=training_job.metadata.generation, now=now
            ),
        }
    )
    if status.is_finished and job is not None:
        return _finished(status, job, observation, now)
    return _running(status, observation) if observation.progress else status


def _conditions(observation: TrainingJobObservation) -> tuple[Condition, ...]:
    job = observation.job
    if job is not None and job.succeeded:
        return (condition("Complete", True, _completion(job)),)
    failure = job_failure(job) if job is not None else None
    if failure is not None:
        return (condition("Failed", True, failure),)
    waiting = first_verdict(CHECKS, observation)
    if waiting is not None:
        return (condition("Running", False, waiting),)
    return (condition("Running", True, Verdict("Training", _progress_sentence(observation))),)


def _completion(job: JobView) -> Verdict:
    result = read_model(TrainResult, job.result)
    if result is None:
        return Verdict("ResultLost", "The training ended, but its figures could not be read from its pod.")
    if result.model.version is None:
        message = "The training ended, but MLflow could not be reached: no model version was registered."
        return Verdict("NotRegistered", message)
    return Verdict(result.reason, f"Registered as version {result.model.version} of model {result.model.name!r}.")


def _progress_sentence(observation: TrainingJobObservation) -> str:
    told = read_model(TrainerProgress, observation.progress)
    return f"The trainer is {(told and told.stage) or 'training'}."


def _phase(first: Condition) -> str:
    return {"Complete": "Complete", "Failed": "Failed"}.get(first.type) or ("Running" if first.is_true else "Pending")


def _running(status: TrainingJobStatus, observation: TrainingJobObservation) -> TrainingJobStatus:
    told = read_model(TrainerProgress, observation.progress)
    if told is None:
        return status
    progress = TrainProgress.model_validate(told.model_dump(exclude={"eta_seconds", "mlflow"})).model_copy(
        update={
            "eta": go_duration(told.eta_seconds) if told.eta_seconds is not None else None,
            "steps": f"{told.step or 0}/{told.total_steps}" if told.total_steps else None,
        }
    )
    metric = _metric(observation, progress.metric) if progress.metric is not None else status.metric
    run = _mlflow(told.mlflow, observation) or status.mlflow
    return status.model_copy(update={"progress": progress, "metric": metric, "mlflow": run})


def _finished(
    status: TrainingJobStatus, job: JobView, observation: TrainingJobObservation, now: datetime
) -> TrainingJobStatus:
    result = read_model(TrainResult, job.result) or TrainResult()
    metrics = {name: value for name, value in result.metrics.items() if value is not None} or None
    name = observation.training_job.spec.metric
    last = status.progress
    done = last.model_copy(update={"eta": None, "stage": None}) if last else None
    return status.model_copy(
        update={
            "completion_time": job.end_time or now,
            "progress": _completed(done) if job.succeeded else done,
            "mlflow": _mlflow(result.mlflow, observation) or status.mlflow,
            "model": _model(result.model, observation) if job.succeeded else None,
            "metrics": metrics,
            "metric": _metric(observation, metrics[name]) if metrics and name in metrics else status.metric,
        }
    )


def _model(told: Model, observation: TrainingJobObservation) -> Model:
    display = f"{told.name}/{told.version}" if told.name and told.version else None
    return told.model_copy(update={"uri": told.uri or observation.model_uri, "display": display})


def _completed(last: TrainProgress | None) -> TrainProgress | None:
    """Show all steps as done: the last answer of the trainer was given a little before its end."""
    if last is None or last.total_steps is None:
        return last
    total = last.total_steps
    return last.model_copy(update={"step": total, "steps": f"{total}/{total}"})


def _metric(observation: TrainingJobObservation, value: float) -> str:
    return f"{observation.training_job.spec.metric} {value:.4f}"


def _mlflow(run: RunReference | None, observation: TrainingJobObservation) -> MlflowRun | None:
    if run is None or run.run_id is None:
        return None
    base = observation.mlflow_public_url.rstrip("/")
    url = f"{base}/#/experiments/{run.experiment_id}/runs/{run.run_id}" if base else None
    return MlflowRun(experiment_id=run.experiment_id, run_id=run.run_id, url=url)


def go_duration(seconds: float) -> str:
    """Return a duration as Go prints it, in whole seconds: ``1h2m3s``, ``11m0s``, ``4s``."""
    whole = int(timedelta(seconds=max(0.0, seconds)).total_seconds())
    hours, rest = divmod(whole, 3600)
    minutes, secs = divmod(rest, 60)
    if hours:
        return f"{hours}h{minutes}m{secs}s"
    return f"{minutes}m{secs}s" if minutes else f"{secs}s"
