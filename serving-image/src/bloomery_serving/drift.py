"""Drift: how far the images of a sliding window, and their answers, are from the held-out images and theirs.

The measure is the population stability index (PSI), the sum of (p - q) ln(p / q) over bins. Two samples of one
distribution do not have 0, but about (bins - 1) (1/n + 1/m) (Yurdakul and Naranjo, 2020: the index, scaled by this, is
chi-squared with bins - 1 degrees of freedom), which is taken off. Bins that few answers are expected in are pooled
before, as rare ones would dominate the sum.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bloomery_model.statistics import Reference, find_bins

WINDOW_ANSWERS = 500
"""Number of the latest answers that are compared."""
MIN_ANSWERS = 100
"""With fewer answers in the window, chance is as large as drift."""
_MIN_SHARE = 0.05
_MIN_IMAGES = 10
"""Least share and least number of held-out images of a bin: the index of smaller ones is mostly chance."""
_SMOOTHING = 0.5
"""Answers that are added to each bin, so that an empty one does not make the index infinite (Krichevsky-Trofimov)."""


@dataclass(frozen=True)
class Drift:
    """Population stability indices without their sampling bias: 0 is none, above 0.25 is usually called large."""

    classes: float
    confidence: float
    brightness: float | None


class DriftMonitor:
    """Compares the latest answers with those on held-out images; may be used from several threads."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self._classes = _Pooled.by_class(reference.predictions)
        self._confidence = _Pooled.by_order(reference.confidence.counts)
        self._brightness = None if reference.brightness is None else _Pooled.by_order(reference.brightness.counts)
        self._window: deque[tuple[int, float, float]] = deque(maxlen=WINDOW_ANSWERS)
        self._lock = threading.Lock()

    def observe(self, label: int, confidence: float, brightness: float) -> None:
        """Take in an answer: its class, that class' score, and the mean of the image's normalised pixels."""
        with self._lock:
            self._window.append((label, confidence, brightness))

    def measure(self) -> Drift | None:
        """Return the drift of the window; None while it has fewer than MIN_ANSWERS."""
        with self._lock:
            window = list(self._window)
        if len(window) < MIN_ANSWERS:
            return None
        labels, confidence, brightness = map(np.asarray, zip(*window, strict=True))
        return Drift(
            classes=self._classes.psi(labels),
            confidence=self._confidence.psi(find_bins(confidence, self._reference.confidence.edges)),
            brightness=self._brightness_drift(brightness),
        )

    def _brightness_drift(self, brightness: NDArray[np.float64]) -> float | None:
        known = self._reference.brightness
        if known is None or self._brightness is None:
            return None
        return self._brightness.psi(find_bins(brightness, known.edges))


class _Pooled:
    """Counts of a reference, in bins that hold _MIN_SHARE of all counts and _MIN_IMAGES."""

    def __init__(self, bin_of: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        self._bin_of = bin_of
        self._counts = np.bincount(bin_of, weights=counts)
        self._images = int(counts.sum())

    @classmethod
    def by_class(cls, counts: Sequence[int]) -> _Pooled:
        """Give each frequent class a bin; rare ones share some.

        Rare ones are pooled in the order of the classes, not of their counts: where each has a few images, those that
        were frequent by chance would come together.
        """
        array = np.asarray(counts, np.int64)
        is_rare = array < _least(array)
        bin_of = np.zeros(len(array), np.int64)
        bin_of[is_rare] = _pool(array[is_rare], _least(array))
        rare_bins = int(bin_of.max()) + 1 if is_rare.any() else 0
        bin_of[~is_rare] = rare_bins + np.arange(np.count_nonzero(~is_rare))
        return cls(bin_of, array)

    @classmethod
    def by_order(cls, counts: Sequence[int]) -> _Pooled:
        """Pool neighbouring bins of a quantity."""
        array = np.asarray(counts, np.int64)
        return cls(_pool(array, _least(array)), array)

    def psi(self, values: NDArray[np.int64]) -> float:
        """Return the index of observed bins against the reference, without its sampling bias; not below 0."""
        observed = np.bincount(self._bin_of[values], minlength=len(self._counts))
        p, q = _shares(observed), _shares(self._counts)
        bias = (len(p) - 1) * (1 / len(values) + 1 / max(1, self._images))
        return max(0.0, float(((p - q) * np.log(p / q)).sum()) - bias)


def _least(counts: NDArray[np.int64]) -> float:
    return max(_MIN_SHARE * float(counts.sum()), _MIN_IMAGES)


def _pool(counts: NDArray[np.int64], least: float) -> NDArray[np.int64]:
    """Return the pooled bin of each bin: neighbours come together until they hold ``least``."""
    bin_of, pooled, inside = np.zeros(len(counts), np.int64), 0, 0
    for number, count in enumerate(counts.tolist()):
        if inside >= least:
            pooled, inside = pooled + 1, 0
        bin_of[number] = pooled
        inside += count
    if inside < least and pooled > 0:
        # The rest at the end is too little for a bin of its own.
        bin_of[bin_of == pooled] = pooled - 1
    return bin_of


def _shares(counts: NDArray[np.float64] | NDArray[np.int64]) -> NDArray[np.float64]:
    smoothed = counts + _SMOOTHING
    return np.asarray(smoothed / smoothed.sum(), np.float64)
