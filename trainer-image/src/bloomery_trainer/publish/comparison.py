"""Whether one model is better than another, from the answers of both on the same images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest  # type: ignore[import-untyped]
from torch import from_numpy, topk

from bloomery_trainer.engine.evaluation import TOP_K, score

Probabilities = NDArray[np.float32]
Labels = NDArray[np.int64]

RESAMPLES = 2000
_SEED = 0
_MEAN_METRICS = ("top1", "top5")
"""Metrics that are a mean over images of 0 or 1."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A candidate's metric against another model's, on the same images.

    Attributes:
        value: the candidate's.
        other: the other model's.
        low: of the 95 % interval of the difference (percentiles of a paired bootstrap).
        high: its other end.
        p_value: how probable at least such a difference is for a candidate that is no better, one-sided.
    """

    value: float
    other: float
    low: float
    high: float
    p_value: float


def compare(metric: str, candidate: Probabilities, other: Probabilities, labels: Labels) -> Comparison:
    """Compare two models on N images; probabilities float32 [N, C] of each, true classes int64 [N].

    For top1, the p-value is of the exact McNemar test (McNemar 1947, Psychometrika 12): of the images that only one
    of the models gets right, the candidate's share is binomial. For other metrics it is of a paired bootstrap with
    2,000 resamples of the images (Efron and Tibshirani 1993, chapter 16); with the same answers, always the same.
    """
    value, reference = (score(answers, labels)[metric] for answers in (candidate, other))
    gain = _mean_gains if metric in _MEAN_METRICS else _class_gains
    gains = np.fromiter(gain(metric, candidate, other, labels), np.float64, RESAMPLES)
    low, high = np.quantile(gains, (0.025, 0.975))
    if metric == "top1":
        p_value = _mcnemar(candidate.argmax(axis=1) == labels, other.argmax(axis=1) == labels)
    else:
        p_value = float((1 + np.count_nonzero(gains <= 0)) / (1 + RESAMPLES))
    return Comparison(value=value, other=reference, low=float(low), high=float(high), p_value=p_value)


def _mcnemar(candidate: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Return the one-sided p-value from whether each image was answered right, bool [N] of each model."""
    only_candidate = int(np.count_nonzero(candidate & ~other))
    only_other = int(np.count_nonzero(other & ~candidate))
    if only_candidate + only_other == 0:
        return 1.0
    return float(binomtest(only_candidate, only_candidate + only_other, 0.5, alternative="greater").pvalue)


def _mean_gains(metric: str, candidate: Probabilities, other: Probabilities, labels: Labels) -> Iterator[float]:
    """Return the difference in each resample, from the numbers of images gained, lost and neither: quick for any N."""
    first, second = (_hits(metric, answers, labels) for answers in (candidate, other))
    count = len(labels)
    shares = np.array([np.mean(first & ~second), np.mean(second & ~first)])
    shares = np.append(shares, max(0.0, 1 - shares.sum()))
    drawn = np.random.default_rng(_SEED).multinomial(count, shares / shares.sum(), size=RESAMPLES)
    yield from (drawn[:, 0] - drawn[:, 1]) / count


def _hits(metric: str, probabilities: Probabilities, labels: Labels) -> NDArray[np.bool_]:
    if metric == "top1":
        return np.asarray(probabilities.argmax(axis=1) == labels)
    best = topk(from_numpy(probabilities), TOP_K, dim=1).indices.numpy()
    return np.asarray((best == labels[:, None]).any(axis=1))


def _class_gains(metric: str, candidate: Probabilities, other: Probabilities, labels: Labels) -> Iterator[float]:
    """Return the difference in each resample of the images, for means over classes."""
    figure, classes = _CLASS_METRICS[metric], candidate.shape[1]
    predictions = [answers.argmax(axis=1) for answers in (candidate, other)]
    generator = np.random.default_rng(_SEED)
    for _ in range(RESAMPLES):
        # The number of draws of each image replaces a list of the drawn images, and needs no copies of the answers.
        draws = np.bincount(generator.integers(0, len(labels), len(labels)), minlength=len(labels))
        values = []
        for predicted in predictions:
            counts = _ClassCounts(
                right=_count(labels, draws * (predicted == labels), classes),
                images=_count(labels, draws, classes),
                answered=_count(predicted, draws, classes),
            )
            values.append(float(figure(counts)[counts.images > 0].mean()))
        yield values[0] - values[1]


def _count(numbers: Labels, draws: Labels, classes: int) -> NDArray[np.float64]:
    return np.bincount(numbers, draws, classes).astype(np.float64)


@dataclass(frozen=True)
class _ClassCounts:
    """Of each class, float64 [C]: its images that were answered right, its images, and how often it was answered."""

    right: NDArray[np.float64]
    images: NDArray[np.float64]
    answered: NDArray[np.float64]

    def recall(self) -> NDArray[np.float64]:
        return self.right / np.maximum(self.images, 1)

    def precision(self) -> NDArray[np.float64]:
        return self.right / np.maximum(self.answered, 1)

    def f1(self) -> NDArray[np.float64]:
        return 2 * self.right / np.maximum(self.images + self.answered, 1)


_CLASS_METRICS: dict[str, Callable[[_ClassCounts], NDArray[np.float64]]] = {
    "recall": _ClassCounts.recall,
    "balanced": _ClassCounts.recall,
    "precision": _ClassCounts.precision,
    "f1": _ClassCounts.f1,
}
