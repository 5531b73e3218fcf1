"""Answers of the model: the class of an image, or that it is unknown, counted for the metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from bloomery_model.onnx_classifier import Scores
from bloomery_model.statistics import Statistics
from bloomery_serving.errors import ModelError
from bloomery_serving.quality_metrics import QualityMetrics
from bloomery_serving.settings import Settings


@dataclass(frozen=True)
class AnswerPolicy:
    """The least score of each class, float32 [C], at which it is answered; None answers always."""

    least_scores: NDArray[np.float32] | None = None

    @classmethod
    def of(cls, settings: Settings, statistics: Statistics, *, classes: int) -> Self:
        """Return the policy of a service for its model.

        Args:
            settings: of the server.
            statistics: of the model.
            classes: their number.

        Raises:
            ModelError: the settings ask for a precision for which the model has no thresholds, or for both.
        """
        precision, confidence = settings.answer_precision, settings.answer_min_confidence
        if precision is not None and confidence is not None:
            raise ModelError("BadSettings", "Set ANSWER_PRECISION or ANSWER_MIN_CONFIDENCE, not both.")
        if confidence is not None:
            return cls(np.full(classes, confidence, np.float32))
        return cls() if precision is None else cls(_stored_thresholds(statistics, precision))

    @property
    def may_be_unknown(self) -> bool:
        """Whether an image can be answered as unknown."""
        return self.least_scores is not None

    def is_unknown(self, scores: Scores) -> bool:
        """Return whether scores, float32 [C], are too low for an answer."""
        best = int(scores.argmax())
        return self.least_scores is not None and bool(scores[best] < self.least_scores[best])


@dataclass(frozen=True)
class Answer:
    """The answer for one image.

    Attributes:
        scores: the probability of each class, float32 [C].
        label: the name of the likeliest class; None if it is unknown.
    """

    scores: Scores
    label: str | None


class Answerer:
    """Turns the model's scores into answers, and counts them."""

    def __init__(self, labels: Sequence[str], policy: AnswerPolicy, metrics: QualityMetrics) -> None:
        self._labels = labels
        self._policy = policy
        self._metrics = metrics

    @property
    def may_be_unknown(self) -> bool:
        """Whether an image can be answered as unknown."""
        return self._policy.may_be_unknown

    def answer(self, scores: Scores) -> Answer:
        """Return the answer for scores, float32 [C]."""
        best, is_unknown = int(scores.argmax()), self._policy.is_unknown(scores)
        self._metrics.count(best, float(scores[best]), is_unknown=is_unknown)
        return Answer(scores, None if is_unknown else self._labels[best])


def _stored_thresholds(statistics: Statistics, precision: float) -> NDArray[np.float32]:
    thresholds = statistics.thresholds_for(precision)
    if thresholds is None:
        raise ModelError(
            "NoThresholds",
            f"The model has no thresholds for answer.precision {precision:g}: evaluate it once by a TrainingJob with "
            "evaluateOnly and this model as its initialModel, which adds them, or set answer.minConfidence.",
        )
    # A class that never reaches the precision is never answered.
    return np.asarray([np.inf if least is None else least for least in thresholds], np.float32)
