"""What trainer containers tell: their termination message and their progress, as documents and as models.

A trainer of another version, or an image of the user's own, may tell anything; it must not keep the operator
from going on, so what is not of the agreed form counts as not told.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import ValidationError

from bloomery_operator.api.common import ApiModel, at_most
from bloomery_operator.api.dataset import ClassCount
from bloomery_operator.api.trainingjob import Model, SavedState

Told = TypeVar("Told", bound=ApiModel)
RecipeValue = str | int | float | bool | None
"""A hyperparameter that was trained with."""

EVALUATED = "Evaluated"
"""The reason of a run that trained nothing, and so has nothing to register."""


class RunReference(ApiModel):
    """A run in MLflow, by MLflow's own identifiers; both None where MLflow could not be reached."""

    experiment_id: str | None = None
    run_id: str | None = None

    def url(self, base: str) -> str | None:
        """Return the run's page, where MLflow has an address for people."""
        if not base or self.run_id is None:
            return None
        return f"{base.rstrip('/')}/#/experiments/{self.experiment_id}/runs/{self.run_id}"


class PrepareResult(ApiModel):
    """What a preparation made; ``classes`` may be cut, ``class_count`` counts all."""

    version: str
    uri: str
    images: int
    class_count: int | None = None
    classes: tuple[ClassCount, ...] = ()
    ignored: Mapping[str, int] = {}
    warnings: tuple[str, ...] = ()
    report: str | None = None
    mlflow: RunReference | None = None


class Promoted(ApiModel):
    """Whether the registry's alias moved to the new version, in words."""

    alias: str = ""
    moved: bool = False
    message: str = ""


class StartedFrom(ApiModel):
    """What a training started from, in the trainer's words.

    ``warning`` is a sentence where it had to start from scratch although nobody asked for that.
    """

    origin: Annotated[str | None, at_most(512)] = None
    warning: str | None = None


class TrainerProgress(ApiModel):
    """How far a running training is, as it says itself."""

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
    """What a training made; without a model version where MLflow could not be reached."""

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
        """Whether nothing is left to be handed to MLflow."""
        return self.model.version is not None or self.reason == EVALUATED


def read_document(text: str | bytes) -> Mapping[str, Any]:
    """Return the JSON object that a container wrote; empty where it is none.

    Python writes NaN for a loss that diverged, which is no JSON: it counts as not there.
    """
    try:
        document = json.loads(text, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def read_model(model: type[Told], document: Mapping[str, Any] | None) -> Told | None:
    """Return a document as a model; None where it is not of the agreed form."""
    try:
        return model.model_validate(document) if document else None
    except ValidationError:
        return None
