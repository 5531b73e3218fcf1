"""Sample objects of the kinds, and results of the trainer's pods."""

from __future__ import annotations

from typing import Any

from testing.kubernetes_api import Manifest

STORE = "s3://bloomery"


def dataset(name: str = "flowers", **spec: Any) -> Manifest:
    """Return a small Dataset."""
    spec = {"source": {"uri": f"s3://{name}/raw"}} | spec
    return {"apiVersion": "bloomery.dev/v1alpha1", "kind": "Dataset", "metadata": {"name": name}, "spec": spec}


def training_job(name: str = "flowers", **spec: Any) -> Manifest:
    """Return a small TrainingJob."""
    spec = {"datasets": [{"name": "flowers"}], "preset": "resnet18", "hyperparameters": {"epochs": 3}} | spec
    return {"apiVersion": "bloomery.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": name}, "spec": spec}


def retraining(name: str = "flowers", *, training: Manifest | None = None, **spec: Any) -> Manifest:
    """Return a small Retraining; ``training`` has further fields of its TrainingJobs' spec."""
    spec = {"template": {"spec": training_job(**(training or {}))["spec"]}} | spec
    return {"apiVersion": "bloomery.dev/v1alpha1", "kind": "Retraining", "metadata": {"name": name}, "spec": spec}


def inference_service(name: str = "flowers", **spec: Any) -> Manifest:
    """Return a small InferenceService."""
    spec = {"variants": [{"name": "v1", "model": {"trainingJob": "flowers"}, "weight": 100}]} | spec
    return {"apiVersion": "bloomery.dev/v1alpha1", "kind": "InferenceService", "metadata": {"name": name}, "spec": spec}


def batch_prediction(name: str = "june", **spec: Any) -> Manifest:
    """Return a small BatchPrediction."""
    spec = {
        "model": {"uri": "s3://models/flowers"},
        "source": {"uri": "s3://photos/june"},
        "output": {"uri": f"s3://photos/predictions/{name}"},
    } | spec
    return {"apiVersion": "bloomery.dev/v1alpha1", "kind": "BatchPrediction", "metadata": {"name": name}, "spec": spec}


def variant(name: str, weight: int, *, model: str | None = None, **fields: Any) -> Manifest:
    """Return a variant that serves a model folder."""
    return {"name": name, "model": {"uri": model or f"s3://models/{name}"}, "weight": weight} | fields


def prepared(version: str = "a", images: int = 40) -> Manifest:
    """Return what a preparation leaves as its termination message."""
    digest = version * 64
    return {
        "version": digest,
        "uri": f"{STORE}/datasets/demo/flowers/{digest}",
        "images": images,
        "classes": [{"name": "daisy", "train": 16, "validation": 4}, {"name": "roses", "train": 16, "validation": 4}],
        "classCount": 2,
        "ignored": {"TooSmall": 1},
        "warnings": ["Class 'daisy' has fewer than 100 images."],
    }


def trained(version: str | None = "1") -> Manifest:
    """Return what a training leaves as its termination message."""
    return {
        "mlflow": {"experimentId": "7", "runId": "f" * 32},
        "model": {
            "name": "flowers",
            "version": version,
            "uri": f"{STORE}/models/demo/flowers/uid/model",
            "digest": "sha256:" + "d" * 64,
        },
        "metrics": {"top1": 0.9375, "top5": 1.0, "loss": 0.21},
        "reason": "Trained" if version else "NotRegistered",
    }
