"""Starting point of a training: a model folder, published weights, or scratch."""

from __future__ import annotations

from dataclasses import dataclass

from bloomery_operator.api import TrainingJob
from bloomery_operator.api.reasons import Reason
from bloomery_operator.domain.served_model import ServedModel
from bloomery_operator.domain.verdict import Verdict

SCRATCH = "None"
"""The value of ``initialModel.weights`` that starts from scratch, in the TrainingJob and in the trainer's document."""


@dataclass(frozen=True, kw_only=True)
class StartingPoint:
    """A resolved initial model: a folder in the store, published weights, or nothing ("None").

    ``origin`` names it for people.
    """

    uri: str | None = None
    weights: str | None = None
    digest: str | None = None
    origin: str = ""


def starting_point_from_registry(
    model: ServedModel | Verdict, reference: str, *, evaluate_only: bool = False
) -> StartingPoint | Verdict:
    """Return a model of MLflow's registry as a starting point; training needs the weights of a TrainingJob's folder.

    An evaluation only needs the model itself, which may also have been imported into the store.
    """
    if isinstance(model, Verdict):
        return model
    in_store = model.uri.startswith(("s3://", "file://"))
    if model.training_job is None and not (evaluate_only and in_store):
        return Verdict(
            Reason.MODEL_NOT_OURS,
            f"{reference} is {model.display}, which was not made by a TrainingJob: it has no weights to start from.",
        )
    return StartingPoint(uri=model.uri, digest=model.digest, origin=model.display)


def starting_point_from_job(name: str, other: TrainingJob | None) -> StartingPoint | Verdict:
    """Return the model of another TrainingJob as a starting point, or what that waits for."""
    if other is None:
        return Verdict(
            Reason.INITIAL_MODEL_NOT_FOUND,
            f"There is no TrainingJob {name!r} to start from; the training waits for it.",
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
