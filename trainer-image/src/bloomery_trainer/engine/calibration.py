"""Calibration: one temperature by which a model's scores mean what they say, and the figures that show it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar  # type: ignore[import-untyped]

from bloomery_model.statistics import energies_of
from bloomery_trainer.engine.evaluation import Evaluation
from bloomery_trainer.engine.held_out import EvaluationResult

BINS = 15
"""Bins of confidence, equally wide, as usual for the expected calibration error (arXiv:1706.04599)."""

_HALVES = 10
_LOG_BOUND = math.log(20)


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Images whose highest score lies in one range: how sure the model was of them, and how often it was right."""

    images: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Figures of one set of scores.

    Attributes:
        error: expected calibration error: the mean distance of confidence and accuracy, over images.
        brier: mean squared distance of the scores from the truth, summed over classes: 0 to 2.
        bins: those that hold images, from unsure to sure.
    """

    error: float
    brier: float
    bins: tuple[Bin, ...]

    @classmethod
    def of(cls, probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> Self:
        """Compute the figures of probabilities [N, C] for true classes [N]."""
        bins = _bins(probabilities, labels)
        error = sum(each.images * abs(each.confidence - each.accuracy) for each in bins) / len(labels)
        truth = np.zeros_like(probabilities)
        truth[np.arange(len(labels)), labels] = 1
        brier = float(np.square(probabilities - truth).sum(axis=1, dtype=np.float64).mean())
        return cls(error=float(error), brier=brier, bins=bins)

    def document(self) -> dict[str, Any]:
        """Return plain values."""
        bins = [{"images": b.images, "confidence": b.confidence, "accuracy": b.accuracy} for b in self.bins]
        return {"error": self.error, "brier": self.brier, "bins": bins}


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A temperature that was fitted on validation images, and what it does to the scores.

    Attributes:
        temperature: by which logits are divided; above 1, the model was too sure.
        fitted_on: number of validation images.
        split: the images of the figures: test images where there are any. Figures on validation images are
            cross-fitted: each half is judged by the temperature of the other, the mean of ten random splits.
        before: with the scores as the network gives them.
        after: with the temperature.
    """

    temperature: float
    fitted_on: int
    split: str
    before: Reliability
    after: Reliability

    def document(self) -> dict[str, Any]:
        """Return the document for evaluation.json and the model's metadata."""
        return {
            "temperature": self.temperature,
            "fittedOn": self.fitted_on,
            "evaluatedOn": self.split,
            "before": self.before.document(),
            "after": self.after.document(),
        }

    def metrics(self) -> Mapping[str, float]:
        """Return the metrics of the run."""
        return {
            "calibration/temperature": self.temperature,
            "calibration/error_before": self.before.error,
            "calibration/error": self.after.error,
            "calibration/brier": self.after.brier,
        }


def calibrate(result: EvaluationResult, *, temperature: float | None = None) -> tuple[Calibration, EvaluationResult]:
    """Fit a temperature on the validation images; return it with the answers that the calibrated model gives.

    Args:
        result: answers without a temperature.
        temperature: one that an earlier start has fitted, in place of a new one.
    """
    validation = result.validation
    if temperature is None:
        temperature = fit_temperature(validation.probabilities, validation.labels)
    after = EvaluationResult(
        _scaled(validation, temperature), None if result.test is None else _scaled(result.test, temperature)
    )
    judged = result.final
    calibration = Calibration(
        temperature=temperature,
        fitted_on=len(validation.labels),
        split=result.split,
        before=Reliability.of(judged.probabilities, judged.labels),
        after=_cross_fitted(validation) if result.test is None else _reliability(after.final),
    )
    return calibration, after


def without_temperature(result: EvaluationResult, temperature: float) -> EvaluationResult:
    """Return the answers that a model gave before its logits were divided by a temperature."""
    test = None if result.test is None else _scaled(result.test, 1 / temperature)
    return EvaluationResult(_scaled(result.validation, 1 / temperature), test)


def fit_temperature(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Return the temperature under which the true classes are most likely (arXiv:1706.04599, section 4.2).

    With few images, or none wrong, the likelihood alone would drive it to an extreme; a normal prior of its logarithm,
    of mean 0 and deviation 1, weighs as little as one image.
    """
    logits = _logits(probabilities)
    rows = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        scaled = logits / math.exp(log_temperature)
        top = scaled.max(axis=1)
        likelihood = scaled[rows, labels] - top - np.log(np.exp(scaled - top[:, None]).sum(axis=1))
        return float(-likelihood.sum() + log_temperature**2 / 2)

    best = minimize_scalar(loss, bounds=(-_LOG_BOUND, _LOG_BOUND), method="bounded")
    return round(math.exp(float(best.x)), 6)


def with_temperature(probabilities: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """Return the probabilities [N, C] that the same logits, divided by a temperature, give."""
    scaled = _logits(probabilities) / temperature
    shares = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True), dtype=np.float32)


def _logits(probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return logits of which probabilities are the softmax; a probability of 0 counts as the least that there is."""
    return np.log(np.maximum(probabilities, np.finfo(np.float32).tiny).astype(np.float64))


def _scaled(evaluation: Evaluation, temperature: float) -> Evaluation:
    probabilities, energies = evaluation.probabilities, evaluation.energies
    if energies is not None:
        # The logits are the logarithms of the probabilities plus the energy.
        energies = energies / np.float32(temperature) + energies_of(_logits(probabilities) / temperature)
    scaled = with_temperature(probabilities, temperature)
    return Evaluation.of(scaled, evaluation.labels, energies=energies, brightness=evaluation.brightness)


def _reliability(evaluation: Evaluation) -> Reliability:
    return Reliability.of(evaluation.probabilities, evaluation.labels)


def _cross_fitted(evaluation: Evaluation) -> Reliability:
    """Return figures in which no image was judged by a temperature that it had a part in."""
    random = np.random.default_rng(0)
    rounds = [_one_cross_fit(evaluation, random.permutation(len(evaluation.labels))) for _ in range(_HALVES)]
    return Reliability(
        error=float(np.mean([each.error for each in rounds])),
        brier=float(np.mean([each.brier for each in rounds])),
        bins=rounds[0].bins,
    )


def _one_cross_fit(evaluation: Evaluation, order: NDArray[np.int64]) -> Reliability:
    halves = np.array_split(order, 2)
    probabilities = evaluation.probabilities.copy()
    for judged, fitted in (halves, halves[::-1]):
        if len(fitted):
            temperature = fit_temperature(evaluation.probabilities[fitted], evaluation.labels[fitted])
            probabilities[judged] = with_temperature(evaluation.probabilities[judged], temperature)
    return Reliability.of(probabilities, evaluation.labels)


def _bins(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[Bin, ...]:
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return tuple(
        Bin(
            images=int(inside.sum()),
            confidence=float(confidence[inside].mean()),
            accuracy=float(right[inside].mean()),
        )
        for inside in (place == number for number in range(BINS))
        if inside.any()
    )
