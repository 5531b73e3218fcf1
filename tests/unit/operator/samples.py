"""Sample objects as the API server returns them, small and fixed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from bloomery_operator.api import BatchPrediction, Dataset, InferenceService, Retraining, TrainingJob
from bloomery_operator.settings import Settings
from testing.crds import apply_defaults, read_schema

Manifest = dict[str, Any]

NOW = datetime(2026, 5, 1, 12, 0, 0, tzinfo=UTC)
DIGEST = "a" * 64


def settings(**fields: Any) -> Settings:
    """Return settings as the chart sets them, with a gateway."""
    defaults = {
        "trainer_image": "example/trainer:1",
        "serving_image": "example/serving:1",
        "gateway_name": "bloomery",
        "gateway_namespace": "gateways",
    }
    return Settings.model_validate(defaults | fields)


def metadata(name: str = "flowers", **fields: Any) -> Manifest:
    """Return an object's metadata."""
    return {
        "name": name,
        "namespace": "demo",
        "uid": f"uid-of-{name}",
        "generation": 3,
        "resourceVersion": "100",
        "creationTimestamp": "2026-05-01T10:00:00Z",
        "annotations": {},
    } | fields


def dataset(spec: Mapping[str, Any] | None = None, status: Mapping[str, Any] | None = None, **meta: Any) -> Dataset:
    """Return a Dataset."""
    source = {"source": {"uri": "s3://flowers/raw"}}
    with_defaults = apply_defaults(source | dict(spec or {}), read_schema("datasets"))
    return Dataset.parse({"metadata": metadata(**meta), "spec": with_defaults, "status": status or {}})


def prepared_status(**fields: Any) -> Manifest:
    """Return the status of a Dataset that was prepared once."""
    version = {"ordinal": 1, "version": DIGEST, "images": 40, "created": "2026-05-01T11:00:00Z", "uri": "s3://b/a"}
    ready = {"type": "Ready", "status": "True", "reason": "Prepared", "message": "40 images in 2 classes."}
    return {
        "phase": "Ready",
        "version": DIGEST,
        "versions": [version],
        "uri": "s3://b/a",
        "images": 40,
        "classCount": 2,
        "conditions": [ready],
    } | fields


def training_job(
    spec: Mapping[str, Any] | None = None, status: Mapping[str, Any] | None = None, **meta: Any
) -> TrainingJob:
    """Return a TrainingJob."""
    needed = {"datasets": [{"name": "flowers"}], "preset": "resnet18"}
    with_defaults = apply_defaults(needed | dict(spec or {}), read_schema("trainingjobs"))
    return TrainingJob.parse({"metadata": metadata(**meta), "spec": with_defaults, "status": status or {}})


def batch_prediction(
    spec: Mapping[str, Any] | None = None, status: Mapping[str, Any] | None = None, **meta: Any
) -> BatchPrediction:
    """Return a BatchPrediction."""
    needed = {
        "model": {"uri": "s3://models/flowers"},
        "source": {"uri": "s3://photos/june"},
        "output": {"uri": "s3://photos/predictions"},
    }
    with_defaults = apply_defaults(needed | dict(spec or {}), read_schema("batchpredictions"))
    return BatchPrediction.parse({"metadata": metadata(**meta), "spec": with_defaults, "status": status or {}})


def retraining(*, training: Mapping[str, Any] | None = None, **spec: Any) -> Retraining:
    """Return a Retraining; ``training`` has fields of the template's spec."""
    needed = {"datasets": [{"name": "flowers"}], "preset": "resnet18"}
    template = {"template": {"spec": needed | dict(training or {})}}
    with_defaults = apply_defaults(template | spec, read_schema("retrainings"))
    return Retraining.parse({"metadata": metadata(), "spec": with_defaults})


def inference_service(
    weights: Mapping[str, int] | None = None, *, further: Mapping[str, Manifest] | None = None, **spec: Any
) -> InferenceService:
    """Return an InferenceService with a variant of a fixed model for each weight; some have further fields."""
    variants = [
        {"name": name, "model": {"uri": f"s3://models/{name}"}, "weight": weight} | (further or {}).get(name, {})
        for name, weight in (weights or {"v1": 100}).items()
    ]
    return InferenceService.parse({"metadata": metadata(), "spec": {"variants": variants} | spec})


def job(
    *, spec_hash: str, ended: str | None = None, reason: str = "", deleting: bool = False, **status: Any
) -> Manifest:
    """Return a Job; ``ended`` is Complete or Failed."""
    conditions = [{"type": ended, "status": "True", "reason": reason, "message": "So it is."}] if ended else []
    times = {"completionTime": "2026-05-01T11:30:00Z"} if ended == "Complete" else {}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata("flowers-job", annotations={"bloomery.dev/spec-hash": spec_hash})
        | ({"deletionTimestamp": "2026-05-01T11:59:00Z"} if deleting else {}),
        "status": {"startTime": "2026-05-01T11:00:00Z", "conditions": conditions} | times | status,
    }


def pod(
    phase: str, *, name: str = "flowers-0", message: str = "", exit_code: int | None = None, **state: Any
) -> Manifest:
    """Return a pod with the trainer's container."""
    if exit_code is not None:
        state = {"terminated": {"exitCode": exit_code, "message": message}}
    return {
        "metadata": metadata(name),
        "status": {"phase": phase, "podIP": "10.0.0.1", "containerStatuses": [{"name": "trainer", "state": state}]},
    }
