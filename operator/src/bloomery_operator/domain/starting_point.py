"""Starting point of a training: a model folder, published weights, or scratch."""

from __future__ import annotations

from dataclasses import dataclass

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
