"""Calibration: one temperature by which a model's scores mean what they say, and the figures that show it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from bloomery_model.statistics import energies_of
from bloomery_trainer.engine.evaluation import Evaluation
from bloomery_trainer.engine.held_out import EvaluationResult

BINS = 15
"""Bins of confidence, equally wide, as usual for the expected calibration error (arXiv:1706.04599)."""

_HALVES = 10
_LOG_TEMPERATURES = np.linspace(-math.log(20), math.log(20), 61)
"""Temperatures at which likelihoods are computed; between them, the best one is that of a parabola."""
_CHUNK_CELLS = 250_000
"""Probabilities that are worked on at a time, in double precision: answers of a large set take gigabytes."""


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
    def of(
        cls,
        probabilities: NDArray[np.float32],
        labels: NDArray[np.int64],
        temperatures: NDArray[np.float64] | None = None,
    ) -> Self:
        """Compute the figures of probabilities [N, C] for true classes [N].

        Args:
            probabilities: of each class.
            labels: the true classes.
            temperatures: of each image [N], by which its logits are divided first.
        """
        confidence, distance = np.empty(len(labels)), np.empty(len(labels))
        for rows in _chunks(probabilities):
            scores = probabilities[rows].astype(np.float64)
            if temperatures is not None:
                scores = _softmax(_logits(probabilities[rows]) / temperatures[rows, None])
            true = scores[np.arange(len(scores)), labels[rows]]
            confidence[rows] = scores.max(axis=1)
            distance[rows] = np.square(scores).sum(axis=1) - 2 * true + 1
        bins = _bins(confidence, probabilities.argmax(axis=1) == labels)
        error = sum(each.images * abs(each.confidence - each.accuracy) for each in bins) / len(labels)
        return cls(error=float(error), brier=float(distance.mean()), bins=bins)

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


def calibrate(result: EvaluationResult, *, temperature: float | None = None) -> Calibration:
    """Fit a temperature on the validation images.

    Args:
        result: answers without a temperature.
        temperature: one that an earlier start has fitted, in place of a new one.
    """
    validation, judged = result.validation, result.final
    losses = _Losses.of(validation.probabilities, validation.labels)
    if temperature is None:
        temperature = losses.best_temperature()
    if result.test is None:
        after = _cross_fitted(validation, losses)
    else:
        after = Reliability.of(judged.probabilities, judged.labels, np.full(len(judged.labels), temperature))
    return Calibration(
        temperature=temperature,
        fitted_on=len(validation.labels),
        split=result.split,
        before=Reliability.of(judged.probabilities, judged.labels),
        after=after,
    )


def rescaled(result: EvaluationResult, temperature: float) -> EvaluationResult:
    """Return the answers of a model whose logits are divided by a temperature."""
    test = None if result.test is None else _rescaled(result.test, temperature)
    return EvaluationResult(_rescaled(result.validation, temperature), test)


def fit_temperature(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Return the temperature under which the true classes are most likely (arXiv:1706.04599, section 4.2).

    With few images, or none wrong, the likelihood alone would drive it to an extreme; a normal prior of its logarithm,
    of mean 0 and deviation 1, weighs as little as one image.
    """
    return _Losses.of(probabilities, labels).best_temperature()


def with_temperature(probabilities: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """Return the probabilities [N, C] that the same logits, divided by a temperature, give."""
    scaled = np.empty_like(probabilities)
    for rows in _chunks(probabilities):
        scaled[rows] = _softmax(_logits(probabilities[rows]) / temperature)
    return scaled


@dataclass(frozen=True)
class _Losses:
    """Cross-entropy of each image at each of the temperatures, float32 [N, temperatures].

    Computed once, they give the best temperature of any part of the images.
    """

    values: NDArray[np.float32]

    @classmethod
    def of(cls, probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> Self:
        values = np.empty((len(labels), len(_LOG_TEMPERATURES)), np.float32)
        for rows in _chunks(probabilities):
            logits = _logits(probabilities[rows])
            logits -= logits.max(axis=1, keepdims=True)
            true = logits[np.arange(len(logits)), labels[rows]]
            for column, temperature in enumerate(np.exp(_LOG_TEMPERATURES)):
                values[rows, column] = np.log(np.exp(logits / temperature).sum(axis=1)) - true / temperature
        return cls(values)

    def best_temperature(self, rows: NDArray[np.int64] | slice = slice(None)) -> float:
        """Return the best temperature for some of the images."""
        losses = self.values[rows].sum(axis=0, dtype=np.float64) + np.square(_LOG_TEMPERATURES) / 2
        best = int(np.clip(losses.argmin(), 1, len(losses) - 2))
        left, middle, right = losses[best - 1 : best + 2]
        curvature = left - 2 * middle + right
        offset = np.clip((left - right) / (2 * curvature), -1, 1) if curvature > 0 else 0.0
        step = _LOG_TEMPERATURES[1] - _LOG_TEMPERATURES[0]
        return round(math.exp(float(_LOG_TEMPERATURES[best] + offset * step)), 6)


def _chunks(probabilities: NDArray[np.float32]) -> Iterator[slice]:
    """Yield parts of the rows."""
    images, classes = probabilities.shape
    size = max(1, _CHUNK_CELLS // classes)
    return (slice(start, start + size) for start in range(0, images, size))


def _logits(probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return logits of which probabilities are the softmax; a probability of 0 counts as the least that there is."""
    return np.log(np.maximum(probabilities, np.finfo(np.float32).tiny).astype(np.float64))


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def _rescaled(evaluation: Evaluation, temperature: float) -> Evaluation:
    probabilities, energies = evaluation.probabilities, evaluation.energies
    if energies is not None:
        # The logits are the logarithms of the probabilities plus the energy.
        energies = energies / np.float32(temperature) + energies_of(_logits(probabilities) / temperature)
    scaled = with_temperature(probabilities, temperature)
    return Evaluation.of(scaled, evaluation.labels, energies=energies, brightness=evaluation.brightness)


def _cross_fitted(evaluation: Evaluation, losses: _Losses) -> Reliability:
    """Return figures in which no image was judged by a temperature that it had a part in."""
    random = np.random.default_rng(0)
    rounds = [_one_cross_fit(evaluation, losses, random.permutation(len(evaluation.labels))) for _ in range(_HALVES)]
    return Reliability(
        error=float(np.mean([each.error for each in rounds])),
        brier=float(np.mean([each.brier for each in rounds])),
        bins=rounds[0].bins,
    )


def _one_cross_fit(evaluation: Evaluation, losses: _Losses, order: NDArray[np.int64]) -> Reliability:
    halves = np.array_split(order, 2)
    temperatures = np.ones(len(order))
    for judged, fitted in (halves, halves[::-1]):
        temperatures[judged] = losses.best_temperature(fitted)
    return Reliability.of(evaluation.probabilities, evaluation.labels, temperatures)


def _bins(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> tuple[Bin, ...]:
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
