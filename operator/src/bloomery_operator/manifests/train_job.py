"""Task of a TrainingJob: its training by the trainer image."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from bloomery_operator.api import TrainingJob
from bloomery_operator.api.base import ApiModel, Manifest
from bloomery_operator.api.durations import seconds_of
from bloomery_operator.api.trainingjob import TrainedOn, TrainingJobSpec
from bloomery_operator.domain.labels import DATASETS, INITIAL_MODEL, QUEUE
from bloomery_operator.domain.names import job_name
from bloomery_operator.domain.ports import RENDEZVOUS_PORT
from bloomery_operator.domain.registered_name import registered_name
from bloomery_operator.domain.spec_hash import beyond_defaults
from bloomery_operator.domain.starting_point import SCRATCH, StartingPoint
from bloomery_operator.domain.trigger import mlflow_tags
from bloomery_operator.manifests.job import TrainerTask
from bloomery_operator.manifests.memory import default_resources
from bloomery_operator.manifests.pod import size_in_bytes
from bloomery_operator.settings import Settings

_TRAINED_ON = TypeAdapter(tuple[TrainedOn, ...])

COMMAND = "train"
STOP_TOKEN_VARIABLE = "BLOOMERY_STOP_TOKEN"
"""Variable with the token that the trainer requires before it stops early; its Secret has it under the same name."""
_FORMER_STOP_TOKEN_KEY = "stop-token"
"""Key of the token in the Secret of its own that Jobs of releases before 0.3.0 have."""
_UNHASHED_FIELDS = {
    "suspend",
    "stop",
    "tensorboard",
    "display_name",
    "description",
    "ttl_seconds_after_finished",
}
"""Fields of the spec that may change, and that change no result."""


def output_uri(job: TrainingJob, settings: Settings) -> str:
    """Return the job's folder: the user's, or one in the cluster's store with the uid, as names are used again."""
    metadata = job.metadata
    own = f"{settings.store_uri}/models/{metadata.namespace}/{metadata.name}/{metadata.uid}"
    return (job.spec.output.uri or own).rstrip("/")


def build_task(
    job: TrainingJob, datasets: Sequence[TrainedOn], start: StartingPoint | None, settings: Settings, *, stop_token: str
) -> TrainerTask:
    """Return the training of a job's spec, on prepared dataset versions."""
    spec = job.spec
    return TrainerTask(
        command=COMMAND,
        config=_configuration(job, datasets, start, settings),
        hash_input={
            "spec": beyond_defaults(job.KIND, spec, leave_out=_UNHASHED_FIELDS),
            "datasets": [dataset.to_json() for dataset in datasets],
        },
        resources=spec.resources,
        default_resources=default_resources(spec.preset),
        scratch=spec.scratch,
        backoff_limit=spec.backoff_limit,
        active_deadline_seconds=spec.active_deadline_seconds,
        annotations={
            DATASETS: json.dumps([dataset.to_json() for dataset in datasets]),
            **({INITIAL_MODEL: start.origin} if start is not None else {}),
        },
        labels={QUEUE: spec.queue} if spec.queue else {},
        nodes=spec.nodes,
        suspended=bool(spec.queue or spec.suspend),
        secret_environment={STOP_TOKEN_VARIABLE: stop_token},
        pod_template=spec.pod_template,
    )


def read_stop_token(secret: Manifest | None) -> str | None:
    """Return the stop token of a training's Secret."""
    data = (secret or {}).get("data") or {}
    value = data.get(STOP_TOKEN_VARIABLE) or data.get(_FORMER_STOP_TOKEN_KEY)
    token = base64.b64decode(value).decode(errors="replace") if value else ""
    # No header could carry another text, which somebody wrote into the Secret.
    return token if token.isascii() and token.isprintable() and token else None


def trained_on(annotations: Mapping[str, str]) -> tuple[TrainedOn, ...]:
    """Return the dataset versions of a training Job, from its annotations; none if somebody changed these."""
    try:
        return _TRAINED_ON.validate_json(annotations.get(DATASETS, "[]"))
    except ValidationError:
        return ()


def started_from(annotations: Mapping[str, str]) -> str | None:
    """Return the origin of a training Job's starting point, from its annotations."""
    return annotations.get(INITIAL_MODEL)


def _configuration(
    job: TrainingJob, datasets: Sequence[TrainedOn], start: StartingPoint | None, settings: Settings
) -> dict[str, Any]:
    """Return the trainer's configuration; fields that are not set are left to the trainer's own defaults."""
    metadata, spec = job.metadata, job.spec
    optional: dict[str, Any] = {
        "displayName": spec.display_name,
        "description": spec.description,
        "initialModel": _initial_model(start) if start is not None else None,
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
        "datasets": [_dataset_entry(spec, dataset) for dataset in datasets],
        "preset": spec.preset,
        "hyperparameters": dict(spec.hyperparameters),
        "metric": spec.metric,
        "checkpoint": _checkpoint(spec),
        "scratchBytes": size_in_bytes(spec.scratch),
        "mlflow": _mlflow(job, settings),
        "output": {"uri": output_uri(job, settings)}
        | ({"logUri": spec.output.log_uri.rstrip("/")} if spec.output.log_uri else {})
        | ({"quantization": spec.output.quantization} if spec.output.quantization != "None" else {})
        | ({"references": False} if spec.output.references is False else {}),
    }


def _dataset_entry(spec: TrainingJobSpec, dataset: TrainedOn) -> dict[str, Any]:
    classes = next(reference.classes for reference in spec.datasets if reference.name == dataset.name)
    return dataset.to_json() | ({"classes": list(classes)} if classes else {})


def _initial_model(start: StartingPoint) -> dict[str, str]:
    values = {"uri": start.uri, "weights": start.weights, "digest": start.digest, "origin": start.origin}
    return {key: value for key, value in values.items() if value}


def _published_weights(start: StartingPoint | None, settings: Settings) -> dict[str, Any] | None:
    """Return the location of published weights; None if the job starts without them."""
    if start is not None and (start.uri is not None or start.weights == SCRATCH):
        return None
    return {"uri": f"{settings.store_uri}/weights", "download": settings.download_weights}


def _checkpoint(spec: TrainingJobSpec) -> dict[str, Any]:
    every = spec.checkpoint.every
    if every.endswith("steps"):
        return {"everySteps": int(every.removesuffix("steps")), "keep": spec.checkpoint.keep}
    return {"everySeconds": seconds_of(every), "keep": spec.checkpoint.keep}


def _mlflow(job: TrainingJob, settings: Settings) -> dict[str, Any]:
    output = job.spec.output
    optional: dict[str, str | ApiModel | None] = {"versionLabel": output.version_label, "promote": output.promote}
    return {
        "experiment": f"{job.metadata.namespace}/{job.spec.datasets[0].name}",
        # Fixed from now on: the registration reads it from the same Secret.
        "registeredModel": registered_name(job, namespaced=settings.has_namespaced_models),
        "tags": mlflow_tags(job),
        **{k: v.to_json() if isinstance(v, ApiModel) else v for k, v in optional.items() if v is not None},
    }
