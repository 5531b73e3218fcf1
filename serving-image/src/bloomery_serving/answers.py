"""Answers of the model: the class of an image, or that it is unknown, counted for the metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from bloomery_model.onnx_classifier import Scores
from bloomery_model.statistics import Statistics
from bloomery_serving.capture.ids import new_prediction_id
from bloomery_serving.capture.recorder import CaptureRecorder, Upload
from bloomery_serving.errors import ModelError
from bloomery_serving.model import ScoredImage
from bloomery_serving.peer_comparison import PeerComparison
from bloomery_serving.quality_metrics import QualityMetrics
from bloomery_serving.settings import Settings


@dataclass(frozen=True)
class AnswerPolicy:
    """Limits below which an image is unknown; without any, each is answered.

    Attributes:
        least_scores: of each class, float32 [C].
        least_energy: of an image as familiar as most held-out ones; None if the model has none.
    """

    least_scores: NDArray[np.float32] | None = None
    least_energy: float | None = None

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
        if precision is None and confidence is None:
            return cls()
        least_energy = statistics.reference.least_energy if statistics.reference is not None else None
        if precision is not None:
            return cls(_stored_thresholds(statistics, precision), least_energy)
        return cls(np.full(classes, confidence, np.float32), least_energy)

    @property
    def may_be_unknown(self) -> bool:
        """Whether an image can be answered as unknown."""
        return self.least_scores is not None

    def is_unknown(self, image: ScoredImage) -> bool:
        """Return whether an image is too unsure, or too unfamiliar, for an answer."""
        if self.least_scores is None:
            return False
        if self.least_energy is not None and image.energy is not None and image.energy < self.least_energy:
            return True
        best = int(image.scores.argmax())
        return bool(image.scores[best] < self.least_scores[best])


@dataclass(frozen=True)
class Answer:
    """The answer for one image.

    Attributes:
        id: of the prediction.
        scores: the probability of each class, float32 [C].
        label: the name of the likeliest class; None if it is unknown.
    """

    id: str
    scores: Scores
    label: str | None


class Answerer:
    """Turns the model's scores into answers, counts them, and has some images captured and compared."""

    def __init__(
        self,
        labels: Sequence[str],
        policy: AnswerPolicy,
        metrics: QualityMetrics,
        recorder: CaptureRecorder | None = None,
        comparison: PeerComparison | None = None,
    ) -> None:
        """``recorder`` captures images, ``comparison`` compares their classes; None: neither is done."""
        self._labels = labels
        self._policy = policy
        self._metrics = metrics
        self._recorder = recorder
        self._comparison = comparison

    @property
    def may_be_unknown(self) -> bool:
        """Whether an image can be answered as unknown."""
        return self._policy.may_be_unknown

    def answer(self, image: ScoredImage, upload: Upload | None = None) -> Answer:
        """Return the answer for an image.

        Args:
            image: scored.
            upload: the file, if it is one.
        """
        scores, is_unknown = image.scores, self._policy.is_unknown(image)
        best = int(scores.argmax())
        self._metrics.count(best, float(scores[best]), brightness=image.brightness, is_unknown=is_unknown)
        prediction_id = new_prediction_id()
        if self._comparison is not None and upload is not None:
            self._comparison.offer(upload.data, self._labels[best])
        if self._recorder is not None and upload is not None and upload.may_capture:
            self._recorder.offer(prediction_id, upload, scores, is_unknown=is_unknown)
        return Answer(prediction_id, scores, None if is_unknown else self._labels[best])


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
