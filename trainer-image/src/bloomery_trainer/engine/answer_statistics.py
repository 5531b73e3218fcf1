"""Statistics of a model's answers that its folder carries to the model server."""

from __future__ import annotations

from typing import Any

from bloomery_model.statistics import Reference
from bloomery_trainer.engine import thresholds
from bloomery_trainer.engine.held_out import EvaluationResult


def answer_statistics(evaluation: EvaluationResult) -> dict[str, Any]:
    """Return thresholds of confidence, and the reference for drift, by their names in metadata.json."""
    judged, split = evaluation.final, evaluation.split
    reference = Reference.of(judged.probabilities, energies=judged.energies, brightness=judged.brightness)
    return {
        "thresholds": thresholds.document(judged, split=split),
        "reference": reference.document(split=split),
    }
