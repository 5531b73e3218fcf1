"""A TrainingJob's training as a task of the trainer image."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bloomery_operator.api import TrainingJob
from bloomery_operator.api.common import ApiModel, Manifest
from bloomery_operator.api.durations import seconds_of
from bloomery_operator.api.trainingjob import TrainedOn, TrainingJobSpec
from bloomery_operator.resources.jobs import RENDEZVOUS_PORT, TrainerTask, config_map_name, job_name
from bloomery_operator.resources.memory import default_resources
from bloomery_operator.resources.metadata import child_metadata
from bloomery_operator.resources.pods import size_in_bytes
from bloomery_operator.resources.spec_hash import beyond_defaults
from bloomery_operator.settings import Settings

COMMAND = "train"
REGISTER = "register"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
STOP_TOKEN = "stop-token"
SCRATCH = "None"
"""The name of weights that stands for none, in the kind as in the trainer's document."""
_REGISTER_ATTEMPTS = 100
"""The Job controller waits up to six minutes between them: MLflow may be away for a night."""
_DATASETS = "bloomery.dev/datasets"
_INITIAL_MODEL = "bloomery.dev/initial-model"
_MUTABLE = {
    "suspend",
    "stop",
    "tensorboard",
    "display_name",
    "description",
    "ttl_seconds_after_finished",
}


@dataclass(frozen=True, kw_only=True)
class StartingPoint:
    """What training starts from, resolved: a folder in the store, published weights, or nothing ("None").

    ``origin`` says in words where it comes from.
    """

    uri: str | None = None
    weights: str | None = None
    digest: str | None = None
    origin: str = ""


def output_uri(job: TrainingJob, settings: Settings) -> str:
    """Return the job's folder: the user's, or one in the cluster's store, where the uid keeps namesakes apart."""
    metadata = job.metadata
    own = f"{settings.store_uri}/models/{metadata.namespace}/{metadata.name}/{metadata.uid}"
    return (job.spec.output.uri or own).rstrip("/")


def build_task(
    job: TrainingJob, datasets: Sequence[TrainedOn], start: StartingPoint | None, settings: Settings
) -> TrainerTask:
    """Return the training that the job's spec asks for, on prepared dataset versions."""
    spec = job.spec
    return TrainerTask(
        command=COMMAND,
        config=_document(job, datasets, start, settings),
        asked={
            "spec": beyond_defaults(job.KIND, spec, leave_out=_MUTABLE),
            "datasets": [dataset.to_json() for dataset in datasets],
        },
        resources=spec.resources,
        default_resources=default_resources(spec.preset),
        scratch=spec.scratch,
        backoff_limit=spec.backoff_limit,
        active_deadline_seconds=spec.active_deadline_seconds,
        annotations={
            _DATASETS: json.dumps([dataset.to_json() for dataset in datasets]),
            **({_INITIAL_MODEL: start.origin} if start is not None else {}),
        },
        labels={QUEUE_LABEL: spec.queue} if spec.queue else {},
        nodes=spec.nodes,
        suspended=bool(spec.queue or spec.suspend),
        environment=(_stop_token(job),),
        pod_template=spec.pod_template,
    )


def build_register_task(job: TrainingJob, spec_hash: str) -> TrainerTask:
    """Return the task that hands a finished training to MLflow, by the document that it was trained by."""
    return TrainerTask(
        command=REGISTER,
        config={},
        asked={"register": job.metadata.uid},
        backoff_limit=_REGISTER_ATTEMPTS,
        # Where its training found a place, it finds one too.
        pod_template=job.spec.pod_template,
        shared_config_map=config_map_name(job, COMMAND, spec_hash),
    )


def build_stop_secret(job: TrainingJob, token: str) -> Manifest:
    """Return the Secret with what the trainer asks for before it stops early."""
    name = job_name(job, COMMAND)
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": child_metadata(job, name=name, role=COMMAND),
        "type": "Opaque",
        "data": {STOP_TOKEN: base64.b64encode(token.encode()).decode()},
    }


def read_stop_token(secret: Manifest | None) -> str | None:
    """Return the token of the job's Secret."""
    value = ((secret or {}).get("data") or {}).get(STOP_TOKEN)
    return base64.b64decode(value).decode() if value else None


def trained_on(annotations: Mapping[str, str]) -> tuple[TrainedOn, ...]:
    """Return the dataset versions that a child Job was made for, from its annotations."""
    return tuple(TrainedOn.model_validate(entry) for entry in json.loads(annotations.get(_DATASETS, "[]")))


def started_from(annotations: Mapping[str, str]) -> str | None:
    """Return in words what a child Job's training starts from."""
    return annotations.get(_INITIAL_MODEL)


def _document(
    job: TrainingJob, datasets: Sequence[TrainedOn], start: StartingPoint | None, settings: Settings
) -> dict[str, Any]:
    """Return the trainer's configuration; what is not asked for is left to the trainer's own defaults."""
    metadata, spec = job.metadata, job.spec
    optional: dict[str, Any] = {
        "displayName": spec.display_name,
        "description": spec.description,
        "initialModel": _initial(start) if start is not None else None,
        "publishedWeights": _published_weights(start, settings),
        "evaluateOnly": spec.evaluate_only,
        "earlyStopping": spec.early_stopping.to_json() if spec.early_stopping else None,
        "maxTrainingSeconds": seconds_of(spec.max_training_time) if spec.max_training_time else None,
    }
    if spec.nodes > 1:
        name = job_name(job, COMMAND)
        host = f"{name}-0.{name}.{metadata.namespace}.svc"
        optional |= {"nodes": spec.nodes, "rendezvous": f"{host}:{RENDEZVOUS_PORT}"}
    return {
        "kind": COMMAND,
        "name": metadata.name,
        "namespace": metadata.namespace,
        "uid": metadata.uid,
        **{key: value for key, value in optional.items() if value},
        "datasets": [_dataset(spec, dataset) for dataset in datasets],
        "preset": spec.preset,
        "hyperparameters": spec.hyperparameters.to_json(),
        "metric": spec.metric,
        "checkpoint": _checkpoint(spec),
        "scratchBytes": size_in_bytes(spec.scratch),
        "mlflow": _mlflow(job),
        "output": {"uri": output_uri(job, settings)}
        | ({"logUri": spec.output.log_uri.rstrip("/")} if spec.output.log_uri else {})
        | ({"quantization": spec.output.quantization} if spec.output.quantization != "None" else {}),
    }


def _dataset(spec: TrainingJobSpec, dataset: TrainedOn) -> dict[str, Any]:
    classes = next(reference.classes for reference in spec.datasets if reference.name == dataset.name)
    return dataset.to_json() | ({"classes": list(classes)} if classes else {})


def _initial(start: StartingPoint) -> dict[str, str]:
    values = {"uri": start.uri, "weights": start.weights, "digest": start.digest, "origin": start.origin}
    return {key: value for key, value in values.items() if value}


def _published_weights(start: StartingPoint | None, settings: Settings) -> dict[str, Any] | None:
    """Return where published weights are looked for; None where the job starts without them."""
    if start is not None and (start.uri is not None or start.weights == SCRATCH):
        return None
    return {"uri": f"{settings.store_uri}/weights", "download": settings.download_weights}


def _checkpoint(spec: TrainingJobSpec) -> dict[str, Any]:
    every = spec.checkpoint.every
    if every.endswith("steps"):
        return {"everySteps": int(every.removesuffix("steps")), "keep": spec.checkpoint.keep}
    return {"everySeconds": seconds_of(every), "keep": spec.checkpoint.keep}


def _mlflow(job: TrainingJob) -> dict[str, Any]:
    output = job.spec.output
    optional: dict[str, str | ApiModel | None] = {"versionLabel": output.version_label, "promote": output.promote}
    return {
        "experiment": f"{job.metadata.namespace}/{job.spec.datasets[0].name}",
        "registeredModel": job.registered_model,
        "tags": {},
        **{k: v.to_json() if isinstance(v, ApiModel) else v for k, v in optional.items() if v is not None},
    }


def _stop_token(job: TrainingJob) -> Manifest:
    source = {"name": job_name(job, COMMAND), "key": STOP_TOKEN}
    return {"name": "BLOOMERY_STOP_TOKEN", "valueFrom": {"secretKeyRef": source}}
