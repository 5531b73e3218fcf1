"""Reports of trainer containers: the termination message and the progress, as JSON documents and as models.

A trainer of another version, or an image of the user's own, may report anything, and must not stop the operator: a
report that does not fit its model counts as absent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import ValidationError

from bloomery_operator.api.base import ApiModel, at_most
from bloomery_operator.api.dataset import ClassCount, Quality
from bloomery_operator.api.trainingjob import Model, SavedState

Report = TypeVar("Report", bound=ApiModel)
RecipeValue = str | int | float | bool | None
"""Value of a hyperparameter of the recipe."""

EVALUATED = "Evaluated"
"""Reason of a run that only evaluated, and so has no model to register."""


class RunReference(ApiModel):
    """A run in MLflow, by its identifiers; both None if MLflow could not be reached."""

    experiment_id: str | None = None
    run_id: str | None = None

    def url(self, base: str) -> str | None:
        """Return the URL of the run's page, if MLflow has an address for people."""
        if not base or self.run_id is None:
            return None
        return f"{base.rstrip('/')}/#/experiments/{self.experiment_id}/runs/{self.run_id}"


class PrepareResult(ApiModel):
    """Result of a preparation; ``classes`` may be cut, ``class_count`` is their number."""

    version: str
    uri: str
    images: int
    class_count: int | None = None
    classes: tuple[ClassCount, ...] = ()
    ignored: Mapping[str, int] = {}
    quality: Quality | None = None
    warnings: tuple[str, ...] = ()
    report: str | None = None
    mlflow: RunReference | None = None


class Promoted(ApiModel):
    """Result of a promotion: whether the registry's alias moved to the new version, and why."""

    alias: str = ""
    moved: bool = False
    message: str = ""


class StartedFrom(ApiModel):
    """Starting point of a training, as the trainer reports it.

    ``warning`` is a sentence if it had to start from scratch although the spec does not say so.
    """

    origin: Annotated[str | None, at_most(512)] = None
    warning: str | None = None


class TrainerProgress(ApiModel):
    """Progress of a running training, as the trainer reports it."""

    stage: str | None = None
    epoch: int | None = None
    step: int | None = None
    total_steps: int | None = None
    images_per_second: float | None = None
    eta_seconds: float | None = None
    loss: float | None = None
    metric: float | None = None
    mlflow: RunReference | None = None
    starts: int | None = None
    last_checkpoint: SavedState | None = None
    initial_model: StartedFrom | None = None
    recipe: Mapping[str, RecipeValue] | None = None


class TrainResult(ApiModel):
    """Result of a training; without a model version if MLflow could not be reached."""

    reason: str = "Trained"
    mlflow: RunReference | None = None
    model: Model = Model()
    metrics: Mapping[str, float | None] = {}
    starts: int | None = None
    progress: TrainerProgress | None = None
    last_checkpoint: SavedState | None = None
    promoted: Promoted | None = None
    initial_model: StartedFrom | None = None
    recipe: Mapping[str, RecipeValue] | None = None
    notes: tuple[str, ...] = ()

    @property
    def is_registered(self) -> bool:
        """Whether MLflow has everything."""
        return self.model.version is not None or self.reason == EVALUATED


def read_document(text: str | bytes) -> Mapping[str, Any]:
    """Return the JSON object that a container wrote; empty if it is none.

    Python writes NaN for a loss that diverged, which is not JSON: it is read as null.
    """
    try:
        document = json.loads(text, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def read_model(model: type[Report], document: Mapping[str, Any] | None) -> Report | None:
    """Return a document as a model; None if it does not fit."""
    try:
        return model.model_validate(document) if document else None
    except ValidationError:
        return None
