"""Thresholds of confidence: what share of images is answered above each, and what share of the answers is right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bloomery_trainer.engine.evaluation import Evaluation, interval95

LEVELS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
"""Thresholds of the table for people."""

PRECISIONS = (0.8, 0.9, 0.95, 0.99)
"""Precisions for which a threshold is stored with the model."""


@dataclass(frozen=True, kw_only=True)
class Level:
    """All answers with at least this confidence."""

    confidence: float
    answered: float
    right: float | None
    """The share of right ones; None if there is no answer."""


def levels(evaluation: Evaluation) -> tuple[Level, ...]:
    """Return the shares of images that are answered, and of answers that are right, for each of LEVELS."""
    confidence = evaluation.probabilities.max(axis=1)
    right = evaluation.predicted == evaluation.labels
    return tuple(
        Level(
            confidence=level,
            answered=float(answered.mean()),
            right=float(right[answered].mean()) if answered.any() else None,
        )
        for level, answered in ((level, confidence >= level) for level in LEVELS)
    )


def precision_thresholds(evaluation: Evaluation) -> dict[str, list[float | None]]:
    """Return for each of PRECISIONS, as text, the least confidence for each class, in the order of the classes.

    Above it, the lower bound of Wilson's 95 % interval of the class' precision reaches the value. None if no confidence
    reaches it: so many right answers are needed to be sure of a precision.
    """
    predicted, confidence = evaluation.predicted, evaluation.probabilities.max(axis=1)
    right = predicted == evaluation.labels
    classes = range(evaluation.probabilities.shape[1])
    bounds = [_lower_bounds(confidence[predicted == number], right[predicted == number]) for number in classes]
    return {f"{precision:g}": [_least(*each, precision) for each in bounds] for precision in PRECISIONS}


def document(evaluation: Evaluation, *, split: str) -> dict[str, Any]:
    """Return the document for evaluation.json and the model's metadata."""
    return {
        "evaluatedOn": split,
        "images": len(evaluation.labels),
        "levels": [
            {"confidence": each.confidence, "answered": each.answered, "right": each.right}
            for each in levels(evaluation)
        ],
        "precision": precision_thresholds(evaluation),
    }


def _lower_bounds(
    confidence: NDArray[np.float32], right: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return confidences, the highest first, and the lower bound of the precision of all answers down to each.

    Answers of one confidence are taken in together: a threshold cannot separate them.
    """
    order = np.argsort(-confidence, kind="stable")
    confidence, right = confidence[order], right[order]
    counts, hits = np.arange(1, len(order) + 1), np.cumsum(right)
    last = np.append(confidence[1:] != confidence[:-1], True) if len(order) else np.zeros(0, bool)
    bounds = [interval95(hit / count, int(count))[0] for hit, count in zip(hits[last], counts[last], strict=True)]
    return confidence[last], np.asarray(bounds, np.float64)


def _least(confidence: NDArray[np.float32], bounds: NDArray[np.float64], precision: float) -> float | None:
    """Return the least confidence at which a bound is reached."""
    reached = np.flatnonzero(bounds >= precision)
    # Rounded down, so that the answer itself stays above it.
    return float(np.floor(confidence[reached[-1]] * 1e6) / 1e6) if len(reached) else None
