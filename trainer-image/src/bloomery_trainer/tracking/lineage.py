"""Lineage of a run and its model: MLflow's parameters, tags, descriptions and dataset inputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from bloomery_model.lineage import (
    DATASET_TAG,
    DATASET_VERSION_TAG,
    DIGEST_TAG,
    TRAINING_JOB_TAG,
    URI_TAG,
    VERSION_LABEL_TAG,
)
from bloomery_trainer.config import TrainConfig
from bloomery_trainer.output import model_uri
from bloomery_trainer.recipe import Recipe

UID_TAG = "bloomery.dev/uid"
"""Marks a run as the one of a TrainingJob: a pod that is started again continues it."""

EVALUATED_ON_TAG = "bloomery.dev/evaluated-on"
"""The split of the final metrics: test or validation."""

DATA_TAGS = (DATASET_TAG, DATASET_VERSION_TAG, "bloomery.dev/dataset-classes")
"""Models with equal values of these tags were evaluated on the same images."""

_LONGEST = 4500
"""Characters of a text of people's own; MLflow refuses descriptions beyond 5000."""


@dataclass(frozen=True)
class DatasetInput:
    """One dataset version that a run uses."""

    name: str
    version: str
    uri: str


def dataset_inputs(config: TrainConfig) -> tuple[DatasetInput, ...]:
    """Return the dataset versions of a run."""
    return tuple(DatasetInput(part.name, part.version, part.uri) for part in config.datasets)


def parameters(config: TrainConfig, recipe: Recipe | None, *, origin: str | None = None) -> dict[str, str]:
    """Return all parameters of a run, with defaults filled in if the recipe is known."""
    start = config.initial_model
    values = {
        "preset": config.preset,
        "metric": config.metric,
        **(recipe.parameters() if recipe else config.hyperparameters.model_dump(by_alias=True, exclude_none=True)),
        "initialModel": origin or ((start.origin or start.uri or f"weights {start.weights}") if start else None),
        "earlyStoppingPatience": config.early_stopping.patience if config.early_stopping else None,
        "nodes": config.nodes,
        "quantization": config.output.quantization,
    }
    return {key: str(value) for key, value in values.items() if value is not None}


def run_tags(config: TrainConfig, *, device: str | None = None) -> dict[str, str]:
    """Return the tags of the run; people's own never replace those that the rest of the system reads."""
    tags = {**_lineage(config), UID_TAG: config.uid}
    if device is not None:
        tags["bloomery.dev/device"] = device
    return {**config.mlflow.tags, **tags}


def version_tags(
    config: TrainConfig, digest: str, *, int8: bool = False, evaluated_on: str | None = None
) -> dict[str, str]:
    """Return the tags of the model version."""
    tags = {**_lineage(config), DIGEST_TAG: digest, URI_TAG: model_uri(config)}
    if config.mlflow.version_label:
        tags[VERSION_LABEL_TAG] = config.mlflow.version_label
    if int8:
        tags["bloomery.dev/quantization"] = "Int8"
    if evaluated_on is not None:
        tags[EVALUATED_ON_TAG] = evaluated_on
    return {**config.mlflow.tags, **tags}


def data_tags(config: TrainConfig) -> dict[str, str]:
    """Return the tags of the images that a model was judged by: the datasets, and the classes if they are a subset."""
    name, version, classes = DATA_TAGS
    tags = {
        name: ",".join(part.name for part in config.datasets),
        version: ",".join(part.version for part in config.datasets),
    }
    chosen = [sorted(part.classes) for part in config.datasets]
    if any(chosen):
        # A thousand names do not fit into a tag.
        tags[classes] = hashlib.sha256(json.dumps(chosen).encode()).hexdigest()[:16]
    return tags


def describe_job(config: TrainConfig) -> str | None:
    """Return the display name and the description of the job, if it has any."""
    return "\n\n".join(filter(None, (config.display_name, config.description)))[:_LONGEST] or None


def describe_version(config: TrainConfig, metrics: Mapping[str, float]) -> str:
    """Describe a model version."""
    data = ", ".join(f"{part.name} {part.version[:12]}" for part in config.datasets)
    figures = ", ".join(f"{name} {metrics[name]:.4f}" for name in dict.fromkeys(("top1", config.metric)))
    made = f"{config.preset}, trained by {config.namespace}/{config.name} on {data}: {figures}"
    return "\n\n".join(filter(None, (describe_job(config), made)))


def device_name() -> str:
    """Return the name of the device that computes."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def _lineage(config: TrainConfig) -> dict[str, str]:
    tags = {TRAINING_JOB_TAG: f"{config.namespace}/{config.name}", **data_tags(config)}
    if config.display_name:
        tags["bloomery.dev/display-name"] = config.display_name
    return tags
