"""Status of a TrainingJob: conditions and printed fields."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from bloomery_operator.api import Condition, Dataset, TrainingJob
from bloomery_operator.api.dataset import DatasetVersion
from bloomery_operator.api.durations import go_duration
from bloomery_operator.api.reasons import Reason, ReportedReason
from bloomery_operator.api.trainingjob import (
    DatasetReference,
    MlflowRun,
    Model,
    TrainedOn,
    TrainingJobStatus,
    TrainProgress,
)
from bloomery_operator.domain.names import tensorboard_name
from bloomery_operator.domain.ports import TENSORBOARD_PORT
from bloomery_operator.domain.starting_point import StartingPoint
from bloomery_operator.domain.verdict import Verdict, first_verdict
from bloomery_operator.manifests.accelerators import unused_accelerators
from bloomery_operator.status.conditions import condition, with_transition_times
from bloomery_operator.status.job_conditions import (
    at_generation,
    job_fields,
    not_started,
    queued,
    resumption,
    suspension,
)
from bloomery_operator.status.trainer_results import RunReference, TrainerProgress, TrainResult, read_model
from bloomery_operator.status.workloads import JobView, job_failure, pods_refused, sidecars_running

_TENSORBOARD = "TensorBoardReady"


@dataclass(frozen=True, kw_only=True)
class TrainingJobObservation:
    """Everything that a TrainingJob's status depends on."""

    training_job: TrainingJob
    model_uri: str
    """URI of the model folder that the trainer writes."""
    datasets: Mapping[str, Dataset] = field(default_factory=dict)
    """The spec's Datasets by name, as far as they exist."""
    start: StartingPoint | Verdict | None = None
    """The resolved initial model, or what it waits for; None if the spec has none."""
    job: JobView | None = None
    trained_on: tuple[TrainedOn, ...] = ()
    started_from: str | None = None
    blocked_by: Verdict | None = None
    """Why the Job could not be created or stopped: a missing Secret, a rejected manifest, a trainer out of reach."""
    progress: Mapping[str, Any] | None = None
    mlflow_public_url: str = ""

    @property
    def dataset_versions(self) -> tuple[TrainedOn, ...] | None:
        """The versions to train on, once all Datasets have them."""
        versions = [(reference, self.version_of(reference)) for reference in self.training_job.spec.datasets]
        if any(version is None for _, version in versions):
            return None
        return tuple(TrainedOn(name=r.name, version=v.version, uri=v.uri) for r, v in versions if v is not None)

    def version_of(self, reference: DatasetReference) -> DatasetVersion | None:
        """Return the version of one Dataset, once the Dataset has it."""
        dataset = self.datasets.get(reference.name)
        if dataset is None or (reference.version is None and not dataset.status.is_true("Ready")):
            return None
        return dataset.find_version(reference.version)

    @property
    def never_started(self) -> bool:
        """Whether no pod of the training has run yet."""
        has_start_time = self.training_job.status.start_time is not None
        return not has_start_time and (self.job is None or not self.job.has_begun)


def _dataset_not_ready(observation: TrainingJobObservation) -> Verdict | None:
    """Find the first Dataset that does not exist, failed, or does not have the version of the spec."""
    if observation.job is not None:
        return None
    verdicts = (_dataset_verdict(observation, reference) for reference in observation.training_job.spec.datasets)
    return next((verdict for verdict in verdicts if verdict is not None), None)


def _dataset_verdict(observation: TrainingJobObservation, reference: DatasetReference) -> Verdict | None:
    name, dataset = reference.name, observation.datasets.get(reference.name)
    if dataset is None:
        namespace = observation.training_job.metadata.namespace
        advice = "the training starts once it is there and Ready"
        return Verdict(Reason.DATASET_NOT_FOUND, f"There is no Dataset {name!r} in namespace {namespace!r}; {advice}.")
    if observation.version_of(reference) is not None:
        return None
    ready = dataset.status.condition("Ready")
    if dataset.status.phase == "Failed" and ready is not None:
        return Verdict(Reason.DATASET_FAILED, f"Dataset {name!r} failed: {ready.message}")
    if dataset.status.is_true("Ready"):
        known = ", ".join(f"{v.ordinal} ({v.version[:12]})" for v in dataset.status.versions)
        message = f"Dataset {name!r} has no version {reference.version!r}; it has: {known}."
        if dataset.has_unlisted_versions:
            message += " An older one can only be named by its whole digest, which its folder in the store has."
        return Verdict(Reason.DATASET_VERSION_NOT_FOUND, message)
    detail = f": {ready.message}" if ready else "."
    return Verdict(Reason.DATASET_NOT_READY, f"Dataset {name!r} is not ready yet{detail}")


def _initial_model_not_ready(observation: TrainingJobObservation) -> Verdict | None:
    """Check that the initial model is resolved."""
    if observation.job is not None or not isinstance(observation.start, Verdict):
        return None
    return observation.start


def _blocked(observation: TrainingJobObservation) -> Verdict | None:
    return observation.blocked_by if observation.job is None else None


def _not_started(observation: TrainingJobObservation) -> Verdict | None:
    # The same message with and without a pod: with many jobs at once, each change of a message is a write.
    return not_started(observation.job, Verdict(Reason.PENDING, "The training's pod is about to start."))


CHECKS = (_dataset_not_ready, _initial_model_not_ready, _blocked, _not_started)


def derive_status(observation: TrainingJobObservation, now: datetime) -> TrainingJobStatus:
    """Return the status; that of a finished job stays as it is."""
    training_job = observation.training_job
    previous, generation = training_job.status, training_job.metadata.generation
    if previous.is_finished:
        return at_generation(previous, generation)
    status = previous.model_copy(
        update={
            **job_fields(previous, observation.job, _conditions(observation), generation=generation, now=now),
            "datasets": observation.trained_on or previous.datasets,
            "initial_model": observation.started_from or previous.initial_model,
        }
    )
    if status.is_finished:
        return _finished(status, observation, now)
    if observation.progress:
        return _running(status, observation)
    return status if status.phase == "Running" else _waiting(status)


def _waiting(status: TrainingJobStatus) -> TrainingJobStatus:
    """Return the status of a training that waits: its steps stay, its stage, speed and ETA do not."""
    if status.progress is None:
        return status
    update = {"stage": None, "eta": None, "images_per_second": None}
    return status.model_copy(update={"progress": status.progress.model_copy(update=update)})


def _conditions(observation: TrainingJobObservation) -> tuple[Condition, ...]:
    job, training_job = observation.job, observation.training_job
    spec = training_job.spec
    if job is not None and job.succeeded:
        return (condition("Complete", True, _completion(job)),)
    failure = (job_failure(job) if job is not None else None) or _stopped_before_start(observation)
    if failure is not None:
        return (condition("Failed", True, failure),)
    suspended = _suspended(observation)
    if suspended is not None:
        return suspension(suspended, is_queued=bool(spec.queue))
    waiting = first_verdict(CHECKS, observation)
    verdict = waiting or _running_verdict(observation)
    return (condition("Running", waiting is None, verdict), *resumption(training_job.status))


def _stopped_before_start(observation: TrainingJobObservation) -> Verdict | None:
    spec = observation.training_job.spec
    if not spec.stop or not observation.never_started:
        return None
    return Verdict(Reason.STOPPED_BEFORE_START, "It was stopped before it began, so there is no model.", failed=True)


def _suspended(observation: TrainingJobObservation) -> Verdict | None:
    job, spec = observation.job, observation.training_job.spec
    if job is None or not job.suspended:
        return None
    if spec.queue:
        return queued(spec.queue)
    saved = observation.training_job.status.last_checkpoint
    where = f"; it goes on from step {saved.step} once spec.suspend is false" if saved else ""
    pods = "its pods save their state and go" if job.has_running_pods else "it has no pods"
    return Verdict(Reason.SUSPENDED, f"spec.suspend is true, so {pods}{where}.")


def _completion(job: JobView) -> Verdict:
    result = read_model(TrainResult, job.result)
    if result is None:
        return Verdict(
            Reason.RESULT_LOST,
            "The training ended, but its result could not be read from its pod; it is read from the output folder.",
        )
    return completion(result)


def completion(result: TrainResult) -> Verdict:
    """Return the verdict of a training that succeeded: how it ended, and where its model is."""
    if not result.is_registered:
        message = (
            "The training ended, but MLflow could not be reached: the model is in the store and will be registered"
        )
        return Verdict(Reason.NOT_REGISTERED, f"{message} as soon as MLflow answers.")
    if result.model.version is None:
        summary = "The model was evaluated; the report is in the output folder."
    else:
        summary = f"Registered as version {result.model.version} of model {result.model.name!r}."
    promoted = [f"{result.promoted.message.rstrip('.')}."] if result.promoted and result.promoted.message else []
    return Verdict(
        ReportedReason(result.reason), " ".join([summary, *promoted, *result.notes, *_start_sentences(result)])
    )


def _start_sentences(result: TrainResult) -> list[str]:
    """Return the starting point and its warning, as far as the trainer's notes do not have them already."""
    start, notes = result.initial_model, " ".join(result.notes)
    if start is None:
        return []
    origin = f"It started from {start.origin}." if start.origin and start.origin not in notes else ""
    warning = f"Warning: {start.warning.rstrip('.')}." if start.warning and start.warning not in notes else ""
    return [sentence for sentence in (origin, warning) if sentence]


def _running_verdict(observation: TrainingJobObservation) -> Verdict:
    sidecars = sidecars_running(observation.job.current_pod, "training") if observation.job else None
    return observation.blocked_by or sidecars or Verdict(Reason.TRAINING, _progress_sentence(observation))


def _progress_sentence(observation: TrainingJobObservation) -> str:
    if observation.training_job.spec.stop:
        return "The trainer is stopping; it evaluates and keeps the best model so far."
    # A pod that has just ended does not answer: its last progress stays until the Job has ended, too.
    progress = read_model(TrainerProgress, observation.progress) or observation.training_job.status.progress
    sentence = f"The trainer is {(progress and progress.stage) or 'training'}."
    unused = ", ".join(unused_accelerators(observation.training_job.spec.resources))
    # The spec cannot be changed, but the next job's can.
    return f"{sentence} It supports NVIDIA's GPUs only: it does not compute on {unused}." if unused else sentence


def _running(status: TrainingJobStatus, observation: TrainingJobObservation) -> TrainingJobStatus:
    reported = read_model(TrainerProgress, observation.progress)
    if reported is None:
        return status
    eta, total = reported.eta_seconds, reported.total_steps
    progress = TrainProgress.model_validate(
        reported.model_dump(include=set(TrainProgress.model_fields))
        | {
            "eta": go_duration(eta) if eta is not None else None,
            "steps": _steps(reported.step, total) if total else None,
        }
    )
    metric = status.metric
    if progress.metric is not None:
        metric = _metric(observation.training_job, progress.metric)
    return status.model_copy(
        update={
            "progress": progress,
            "metric": metric,
            "mlflow": _mlflow_run(reported.mlflow, observation.mlflow_public_url) or status.mlflow,
            "last_checkpoint": reported.last_checkpoint or status.last_checkpoint,
            "preemptions": _preemptions(reported.starts, status),
            **_start_and_recipe(reported, status),
        }
    )


def _steps(step: int | None, total: int) -> str:
    return f"{step or 0}/{total}"


def _start_and_recipe(report: TrainerProgress | TrainResult, status: TrainingJobStatus) -> dict[str, Any]:
    """Return the starting point, if the spec did not name it, and the recipe that the trainer chose."""
    start = report.initial_model.origin if report.initial_model else None
    chosen = {name: value for name, value in (report.recipe or {}).items() if value is not None}
    recipe = {name: value if isinstance(value, str) else json.dumps(value) for name, value in chosen.items()}
    return {"initial_model": status.initial_model or start, "recipe": recipe or status.recipe}


def _preemptions(starts: int | None, status: TrainingJobStatus) -> int | None:
    """Return the number of starts beyond the first that no failure explains."""
    return max(0, starts - 1 - (status.restarts or 0)) if starts else status.preemptions


def _finished(status: TrainingJobStatus, observation: TrainingJobObservation, now: datetime) -> TrainingJobStatus:
    job = observation.job
    if job is None:
        return status.model_copy(update={"completion_time": now})
    result = read_model(TrainResult, job.result) or TrainResult()
    return status.model_copy(
        update={
            "completion_time": job.end_time or now,
            "model": _model(result.model, observation) if job.succeeded else None,
            "progress": _final_progress(status.progress, result if job.succeeded else TrainResult()),
            **_reported(result, observation.training_job, status, observation.mlflow_public_url),
        }
    )


def _reported(
    result: TrainResult, training_job: TrainingJob, status: TrainingJobStatus, mlflow_public_url: str
) -> dict[str, Any]:
    """Return the fields of the status that a result determines, beside the model and the progress."""
    metrics = {name: value for name, value in result.metrics.items() if value is not None} or None
    name = training_job.spec.metric
    return {
        "mlflow": _mlflow_run(result.mlflow, mlflow_public_url) or status.mlflow,
        "metrics": metrics,
        "metric": _metric(training_job, metrics[name]) if metrics and name in metrics else status.metric,
        "last_checkpoint": result.last_checkpoint or status.last_checkpoint,
        "preemptions": _preemptions(result.starts, status),
        **_start_and_recipe(result, status),
    }


def registered(
    job: TrainingJob, status: TrainingJobStatus, result: TrainResult, now: datetime, *, mlflow_public_url: str
) -> TrainingJobStatus:
    """Return the status of a finished job whose model was registered, or whose result was read, later."""
    return status.model_copy(
        update={
            "conditions": _completed_again(status, completion(result), now),
            "model": _with_display(result.model, job),
            "progress": _final_progress(status.progress, result),
            **_reported(result, job, status, mlflow_public_url),
        }
    )


def registration_failed(status: TrainingJobStatus, job: JobView, now: datetime) -> TrainingJobStatus:
    """Return the status of a finished job whose model MLflow rejected, or whose result is not in the store either."""
    failure = job_failure(job) or pods_refused(job.rejection)
    if failure is None:
        return status
    if status.is_result_lost:
        reason = Reason.RESULT_LOST
        message = "The training ended, but its result could be read neither from its pod nor from the output folder"
    else:
        reason = Reason.NOT_REGISTERED
        message = "The training ended and its model is in the store, but it could not be registered"
    advice = f"To try again, delete Job {job.name!r}."
    verdict = Verdict(reason, f"{message}: {failure.message.rstrip('.')}. {advice}")
    return status.model_copy(update={"conditions": _completed_again(status, verdict, now)})


def with_tensorboard(
    job: TrainingJob, status: TrainingJobStatus, blocked_by: Verdict | None, now: datetime
) -> TrainingJobStatus:
    """Return the status with the command that opens TensorBoard, or with a condition if it cannot be applied."""
    others = tuple(c for c in status.conditions if c.type != _TENSORBOARD)
    failing = () if blocked_by is None else (condition(_TENSORBOARD, False, blocked_by),)
    conditions = with_transition_times(
        failing, previous=job.status.conditions, generation=job.metadata.generation, now=now
    )
    url = _port_forward_command(job) if job.spec.tensorboard and blocked_by is None else None
    return status.model_copy(update={"conditions": (*others, *conditions), "tensorboard_url": url})


def _port_forward_command(job: TrainingJob) -> str:
    """Return the command that opens the job's TensorBoard, which has no address outside the cluster."""
    name, namespace, port = tensorboard_name(job), job.metadata.namespace, TENSORBOARD_PORT
    return f"kubectl port-forward --namespace {namespace} service/{name} {port}:{port}, then http://127.0.0.1:{port}"


def _completed_again(status: TrainingJobStatus, verdict: Verdict, now: datetime) -> tuple[Condition, ...]:
    complete = condition("Complete", True, verdict)
    return with_transition_times(
        (complete,), previous=status.conditions, generation=status.observed_generation or 1, now=now
    )


def _model(reported: Model, observation: TrainingJobObservation) -> Model:
    model = _with_display(reported, observation.training_job)
    return model.model_copy(update={"uri": reported.uri or observation.model_uri})


def _with_display(model: Model, job: TrainingJob) -> Model:
    """Return the model with its names for people, if it is a version of the registry."""
    if not (model.name and model.version):
        return model
    names = {"display": f"{model.name}/{model.version}", "version_label": job.spec.output.version_label}
    return model.model_copy(update=names)


def _final_progress(last: TrainProgress | None, result: TrainResult) -> TrainProgress | None:
    """Return the progress at the end: the trainer's last answer was before that, if there was one."""
    ended, reported = (last or TrainProgress()).model_copy(update={"eta": None, "stage": None}), result.progress
    if reported is None or not reported.total_steps:
        # Not an empty object: server-side apply would turn it into null, which the API server rejects.
        return None if ended == TrainProgress() else ended
    return ended.model_copy(
        update={
            "epoch": reported.epoch,
            "step": reported.step,
            "total_steps": reported.total_steps,
            "steps": _steps(reported.step, reported.total_steps),
        }
    )


def _metric(training_job: TrainingJob, value: float) -> str:
    return f"{training_job.spec.metric} {value:.4f}"


def _mlflow_run(run: RunReference | None, public_url: str) -> MlflowRun | None:
    if run is None or run.run_id is None:
        return None
    return MlflowRun(experiment_id=run.experiment_id, run_id=run.run_id, url=run.url(public_url))
