"""A TrainingJob's conditions and fields."""

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
from bloomery_operator.domain.served_model import ServedModel
from bloomery_operator.domain.starting_point import StartingPoint
from bloomery_operator.domain.verdict import Verdict, first_verdict
from bloomery_operator.status.conditions import condition, with_transition_times
from bloomery_operator.status.trainer_results import RunReference, TrainerProgress, TrainResult, read_model
from bloomery_operator.status.workloads import JobView, job_failure, pod_not_ready_reason

_TENSORBOARD = "TensorBoardReady"
_RECIPE_ENTRIES = 32
_RECIPE_VALUE_CHARACTERS = 256
"""Most entries of status.recipe, and the longest value, as the kind has them."""


@dataclass(frozen=True, kw_only=True)
class TrainingJobObservation:
    """All that a TrainingJob's status depends on."""

    training_job: TrainingJob
    model_uri: str
    """Where the trainer leaves the model folder."""
    datasets: Mapping[str, Dataset] = field(default_factory=dict)
    """Those of the spec's Datasets that exist, by name."""
    start: StartingPoint | Verdict | None = None
    """What training starts from, or what keeps it from being known; None where it starts from scratch."""
    job: JobView | None = None
    trained_on: tuple[TrainedOn, ...] = ()
    started_from: str | None = None
    blocked_by: Verdict | None = None
    """Why the Job could not be created: a missing Secret, a rejected manifest."""
    progress: Mapping[str, Any] | None = None
    mlflow_public_url: str = ""

    @property
    def dataset_versions(self) -> tuple[TrainedOn, ...] | None:
        """The versions to train on, once all Datasets have them."""
        found = [(reference, self.version_of(reference)) for reference in self.training_job.spec.datasets]
        if any(version is None for _, version in found):
            return None
        return tuple(TrainedOn(name=r.name, version=v.version, uri=v.uri) for r, v in found if v is not None)

    def version_of(self, reference: DatasetReference) -> DatasetVersion | None:
        """The version of one Dataset, once that has it."""
        dataset = self.datasets.get(reference.name)
        if dataset is None or (reference.version is None and not dataset.status.is_true("Ready")):
            return None
        return dataset.find_version(reference.version)

    @property
    def never_started(self) -> bool:
        """Whether no pod of the training has run yet."""
        began_before = self.training_job.status.start_time is not None
        return not began_before and (self.job is None or not self.job.has_begun)


def datasets_not_ready(observation: TrainingJobObservation) -> Verdict | None:
    """Notice the first Dataset that does not exist, failed, or has not got the version that is wanted."""
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
        return Verdict(Reason.DATASET_VERSION_NOT_FOUND, message)
    detail = f": {ready.message}" if ready else "."
    return Verdict(Reason.DATASET_NOT_READY, f"Dataset {name!r} is not ready yet{detail}")


def initial_model_not_ready(observation: TrainingJobObservation) -> Verdict | None:
    """Notice that what training starts from is not known yet."""
    if observation.job is not None or not isinstance(observation.start, Verdict):
        return None
    return observation.start


def starting_point_from_registry(
    model: ServedModel | Verdict, reference: str, *, evaluate_only: bool = False
) -> StartingPoint | Verdict:
    """Return a model of MLflow's registry as what training starts from: it needs the weights of a folder of ours.

    To evaluate it, the model itself will do, also one that was imported into the store.
    """
    if isinstance(model, Verdict):
        return model
    in_store = model.uri.startswith(("s3://", "file://"))
    if model.training_job is None and not (evaluate_only and in_store):
        return Verdict(
            Reason.MODEL_NOT_OURS,
            f"{reference} is {model.display}, which was not made by a TrainingJob: there are no weights to go on from.",
        )
    return StartingPoint(uri=model.uri, digest=model.digest, origin=model.display)


def starting_point_from_job(name: str, other: TrainingJob | None) -> StartingPoint | Verdict:
    """Return the model of another TrainingJob, or what it waits for."""
    if other is None:
        return Verdict(
            Reason.INITIAL_MODEL_NOT_FOUND, f"There is no TrainingJob {name!r} to start from; it is waited for."
        )
    status = other.status
    failed = status.condition("Failed")
    if failed is not None and failed.is_true:
        return Verdict(Reason.INITIAL_MODEL_FAILED, f"TrainingJob {name!r}, to start from, failed: {failed.message}")
    if not status.is_true("Complete") or status.model is None or status.model.uri is None:
        where = f" (step {status.progress.steps})" if status.progress and status.progress.steps else ""
        return Verdict(
            Reason.INITIAL_MODEL_NOT_READY, f"TrainingJob {name!r}, to start from, is not complete yet{where}."
        )
    origin = f"TrainingJob {name}" + (f" ({status.model.display})" if status.model.display else "")
    return StartingPoint(uri=status.model.uri, digest=status.model.digest, origin=origin)


WAITING_CHECKS = (datasets_not_ready, initial_model_not_ready)


def _blocked(observation: TrainingJobObservation) -> Verdict | None:
    return observation.blocked_by if observation.job is None else None


def _not_started(observation: TrainingJobObservation) -> Verdict | None:
    job = observation.job
    # The same words with a pod and without: of many jobs at once, each word that changes is a write.
    pending = Verdict(Reason.PENDING, "The training's pod is about to start.")
    if job is None:
        return pending
    for pod in job.pods:
        trouble = pod_not_ready_reason(pod) if pod.phase == "Pending" or pod.node_lost else None
        if trouble is not None:
            return trouble
    first = job.current_pod
    return pending if first is None or first.phase == "Pending" else None


CHECKS = (*WAITING_CHECKS, _blocked, _not_started)


def derive_status(observation: TrainingJobObservation, now: datetime) -> TrainingJobStatus:
    """Return the status that the observation amounts to; a finished job's stays as it is."""
    training_job = observation.training_job
    previous = training_job.status
    if previous.is_finished:
        return at_generation(previous, training_job.metadata.generation)
    conditions = _conditions(observation)
    job = observation.job
    status = previous.model_copy(
        update={
            "observed_generation": training_job.metadata.generation,
            "phase": _phase(observation, conditions),
            "datasets": observation.trained_on or previous.datasets,
            "initial_model": observation.started_from or previous.initial_model,
            # batch/v1 dates a resumed Job anew; the work began before.
            "start_time": previous.start_time or (job.start_time if job and job.has_begun else None),
            "restarts": job.failed_pods if job else None,
            "conditions": with_transition_times(
                conditions, previous=previous.conditions, generation=training_job.metadata.generation, now=now
            ),
        }
    )
    if status.is_finished:
        return _finished(status, observation, now)
    if observation.progress:
        return _running(status, observation)
    return status if status.phase == "Running" else _at_rest(status)


def _at_rest(status: TrainingJobStatus) -> TrainingJobStatus:
    """Return the status of a training that waits: how far it is stays, how fast it was and how long it takes goes."""
    if status.progress is None:
        return status
    update = {"stage": None, "eta": None, "images_per_second": None}
    return status.model_copy(update={"progress": status.progress.model_copy(update=update)})


def at_generation(status: TrainingJobStatus, generation: int) -> TrainingJobStatus:
    """Return a finished job's status as what holds of its newest spec too: what may still change alters no result."""
    conditions = tuple(c.model_copy(update={"observed_generation": generation}) for c in status.conditions)
    return status.model_copy(update={"observed_generation": generation, "conditions": conditions})


def _conditions(observation: TrainingJobObservation) -> tuple[Condition, ...]:
    job, spec = observation.job, observation.training_job.spec
    if job is not None and job.succeeded:
        return (condition("Complete", True, _completion(job)),)
    failure = job_failure(job) if job is not None else _stopped_before_start(observation)
    failure = failure or _stopped_before_start(observation)
    if failure is not None:
        return (condition("Failed", True, failure),)
    suspended = _suspended(observation)
    if suspended is not None:
        running = condition("Running", False, suspended)
        # Waiting in a queue is no suspension that a person asked for.
        return (running,) if spec.queue else (running, condition("Suspended", True, suspended))
    waiting = first_verdict(CHECKS, observation)
    verdict = waiting or Verdict(Reason.TRAINING, _progress_sentence(observation))
    return (condition("Running", waiting is None, verdict), *_resumption(observation))


def _stopped_before_start(observation: TrainingJobObservation) -> Verdict | None:
    spec = observation.training_job.spec
    if not spec.stop or not observation.never_started:
        return None
    return Verdict(
        Reason.STOPPED_BEFORE_START, "It was stopped before it began: there is no model to keep.", failed=True
    )


def _suspended(observation: TrainingJobObservation) -> Verdict | None:
    job, spec = observation.job, observation.training_job.spec
    if job is None or not job.suspended:
        return None
    if spec.queue:
        return Verdict(Reason.QUEUED, f"It waits for Kueue to admit it to queue {spec.queue!r}.")
    saved = observation.training_job.status.last_checkpoint
    where = f"; it goes on from step {saved.step} once spec.suspend is false" if saved else ""
    pods = "its pods save their state and go" if job.has_running_pods else "it has no pods"
    return Verdict(Reason.SUSPENDED, f"spec.suspend is true, so {pods}{where}.")


def _resumption(observation: TrainingJobObservation) -> tuple[Condition, ...]:
    """Say that a suspension is over, as batch/v1 does; a job that never was suspended says nothing of it."""
    if observation.training_job.status.condition("Suspended") is None:
        return ()
    return (condition("Suspended", False, Verdict(Reason.RESUMED, "spec.suspend is false again.")),)


def _completion(job: JobView) -> Verdict:
    result = read_model(TrainResult, job.result)
    if result is None:
        return Verdict(Reason.RESULT_LOST, "The training ended, but its figures could not be read from its pod.")
    return completion(result)


def completion(result: TrainResult) -> Verdict:
    """Say how a training ended well, and what became of its model."""
    if not result.is_registered:
        message = "The training ended, but MLflow could not be reached: the model lies in the store, and is registered"
        return Verdict(Reason.NOT_REGISTERED, f"{message} as soon as MLflow answers.")
    if result.model.version is None:
        said = "The model was evaluated; the report is in the output folder."
    else:
        said = f"Registered as version {result.model.version} of model {result.model.name!r}."
    promoted = [result.promoted.message] if result.promoted and result.promoted.message else []
    return Verdict(ReportedReason(result.reason), " ".join([said, *promoted, *result.notes, *_start_sentences(result)]))


def _start_sentences(result: TrainResult) -> list[str]:
    """Say what training started from, and what was missing, as far as the trainer's notes do not say so already."""
    start, notes = result.initial_model, " ".join(result.notes)
    if start is None:
        return []
    origin = f"It started from {start.origin}." if start.origin and start.origin not in notes else ""
    warning = f"Warning: {start.warning.rstrip('.')}." if start.warning and start.warning not in notes else ""
    return [sentence for sentence in (origin, warning) if sentence]


def _progress_sentence(observation: TrainingJobObservation) -> str:
    if observation.training_job.spec.stop:
        return "The trainer was told to stop; it evaluates and keeps the best model so far."
    # A pod that has just ended tells nothing any more: what it said last holds until the Job is over, too.
    told = read_model(TrainerProgress, observation.progress) or observation.training_job.status.progress
    return f"The trainer is {(told and told.stage) or 'training'}."


def _phase(observation: TrainingJobObservation, conditions: tuple[Condition, ...]) -> str:
    first = conditions[0]
    if first.type in ("Complete", "Failed"):
        return first.type
    if first.reason in (Reason.QUEUED, Reason.SUSPENDED) and observation.job is not None and observation.job.suspended:
        return first.reason
    return "Running" if first.is_true else "Pending"


def _running(status: TrainingJobStatus, observation: TrainingJobObservation) -> TrainingJobStatus:
    told = read_model(TrainerProgress, observation.progress)
    if told is None:
        return status
    shown = told.model_dump(include=set(TrainProgress.model_fields))
    progress = TrainProgress.model_validate(shown).model_copy(
        update={
            "eta": go_duration(told.eta_seconds) if told.eta_seconds is not None else None,
            "steps": f"{told.step or 0}/{told.total_steps}" if told.total_steps else None,
        }
    )
    metric = _metric(observation, progress.metric) if progress.metric is not None else status.metric
    return status.model_copy(
        update={
            "progress": progress,
            "metric": metric,
            "mlflow": _mlflow(told.mlflow, observation) or status.mlflow,
            "last_checkpoint": told.last_checkpoint or status.last_checkpoint,
            "preemptions": _preemptions(told.starts, status),
            **_start_and_recipe(told, status),
        }
    )


def _start_and_recipe(told: TrainerProgress | TrainResult, status: TrainingJobStatus) -> dict[str, Any]:
    """Return what the trainer started from, where the job did not say it, and the recipe that it chose."""
    start = told.initial_model.origin if told.initial_model else None
    chosen = {name: value for name, value in (told.recipe or {}).items() if value is not None}
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in chosen.items()}
    shown = {name: text[:_RECIPE_VALUE_CHARACTERS] for name, text in texts.items()}
    recipe = dict(list(shown.items())[:_RECIPE_ENTRIES])
    return {"initial_model": status.initial_model or start, "recipe": recipe or status.recipe}


def _preemptions(starts: int | None, status: TrainingJobStatus) -> int | None:
    """Starts beyond the first that no failure explains."""
    return max(0, starts - 1 - (status.restarts or 0)) if starts else status.preemptions


def _finished(status: TrainingJobStatus, observation: TrainingJobObservation, now: datetime) -> TrainingJobStatus:
    job = observation.job
    if job is None:
        return status.model_copy(update={"completion_time": now})
    result = read_model(TrainResult, job.result) or TrainResult()
    metrics = {name: value for name, value in result.metrics.items() if value is not None} or None
    name = observation.training_job.spec.metric
    done = _ended(status.progress or TrainProgress(), result if job.succeeded else TrainResult())
    return status.model_copy(
        update={
            "completion_time": job.end_time or now,
            # An empty object is none: server-side apply would make a null of it, which the API server refuses.
            "progress": None if done == TrainProgress() else done,
            "mlflow": _mlflow(result.mlflow, observation) or status.mlflow,
            "model": _model(result.model, observation) if job.succeeded else None,
            "metrics": metrics,
            "metric": _metric(observation, metrics[name]) if metrics and name in metrics else status.metric,
            "last_checkpoint": result.last_checkpoint or status.last_checkpoint,
            "preemptions": _preemptions(result.starts, status),
            **_start_and_recipe(result, status),
        }
    )


def registered(job: TrainingJob, status: TrainingJobStatus, result: TrainResult, now: datetime) -> TrainingJobStatus:
    """Return the status of a finished job after its model came into the registry later."""
    conditions = _completed_anew(status, completion(result), now)
    model = _shown(result.model, job)
    run = result.mlflow
    mlflow = MlflowRun(experiment_id=run.experiment_id, run_id=run.run_id) if run and run.run_id else status.mlflow
    return status.model_copy(update={"conditions": conditions, "model": model, "mlflow": mlflow})


def registration_failed(status: TrainingJobStatus, job: JobView, now: datetime) -> TrainingJobStatus:
    """Return the status of a finished job whose model MLflow refused for good."""
    failure = job_failure(job)
    if failure is None:
        return status
    message = "The training ended and its model lies in the store, but to register it failed"
    advice = f"To try again, delete Job {job.name!r}."
    verdict = Verdict(Reason.NOT_REGISTERED, f"{message}: {failure.message.rstrip('.')}. {advice}")
    return status.model_copy(update={"conditions": _completed_anew(status, verdict, now)})


def with_tensorboard(
    job: TrainingJob, status: TrainingJobStatus, trouble: Verdict | None, now: datetime
) -> TrainingJobStatus:
    """Say how the job's TensorBoard is opened, or in a condition of its own what keeps it from being made."""
    others = tuple(c for c in status.conditions if c.type != _TENSORBOARD)
    failing = () if trouble is None else (condition(_TENSORBOARD, False, trouble),)
    conditions = with_transition_times(
        failing, previous=job.status.conditions, generation=job.metadata.generation, now=now
    )
    url = _port_forward_command(job) if job.spec.tensorboard and trouble is None else None
    return status.model_copy(update={"conditions": (*others, *conditions), "tensorboard_url": url})


def _port_forward_command(job: TrainingJob) -> str:
    """Return the command that opens the job's TensorBoard, which has no address outside the cluster."""
    name, namespace, port = tensorboard_name(job), job.metadata.namespace, TENSORBOARD_PORT
    return f"kubectl port-forward --namespace {namespace} service/{name} {port}:{port}, then http://127.0.0.1:{port}"


def _completed_anew(status: TrainingJobStatus, verdict: Verdict, now: datetime) -> tuple[Condition, ...]:
    complete = condition("Complete", True, verdict)
    return with_transition_times(
        (complete,), previous=status.conditions, generation=status.observed_generation or 1, now=now
    )


def _model(told: Model, observation: TrainingJobObservation) -> Model:
    shown = _shown(told, observation.training_job)
    return shown.model_copy(update={"uri": told.uri or observation.model_uri})


def _shown(model: Model, job: TrainingJob) -> Model:
    """Return the model with what people call it, where it is a version of the registry."""
    if not (model.name and model.version):
        return model
    names = {"display": f"{model.name}/{model.version}", "version_label": job.spec.output.version_label}
    return model.model_copy(update=names)


def _ended(last: TrainProgress, result: TrainResult) -> TrainProgress:
    """Show how far it came at its end: the trainer's last answer was given before that, if anybody asked at all."""
    told = result.progress
    ended = last.model_copy(update={"eta": None, "stage": None})
    if told is None or not told.total_steps:
        return ended
    done = {"epoch": told.epoch, "step": told.step, "total_steps": told.total_steps}
    return ended.model_copy(update=done | {"steps": f"{told.step or 0}/{told.total_steps}"})


def _metric(observation: TrainingJobObservation, value: float) -> str:
    return f"{observation.training_job.spec.metric} {value:.4f}"


def _mlflow(run: RunReference | None, observation: TrainingJobObservation) -> MlflowRun | None:
    if run is None or run.run_id is None:
        return None
    url = run.url(observation.mlflow_public_url)
    return MlflowRun(experiment_id=run.experiment_id, run_id=run.run_id, url=url)
