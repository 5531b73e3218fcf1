"""Metrics of the answers' quality: by class, by confidence, unknown ones, and drift."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from bloomery_model.statistics import CONFIDENCE_EDGES, Reference
from bloomery_serving.drift import DriftMonitor

MAX_CLASSES = 300
"""Classes with a series of their own; with more classes, the others share one."""
OTHER_CLASSES = "(other)"


class QualityMetrics:
    """Counters of one server's answers, in the server's registry."""

    def __init__(self, registry: CollectorRegistry, labels: Sequence[str], reference: Reference | None) -> None:
        """``labels`` are the classes in the order of the scores."""
        self._drift = None if reference is None else DriftMonitor(reference)
        predictions = Counter(
            "bloomery_predictions", "Images by their likeliest class, also if it was not answered.", ["class"],
            registry=registry,
        )  # fmt: skip
        # All series exist from the start: rates of one that appears with its first image would miss that image.
        self._by_class = [predictions.labels(name) for name in _series_names(labels, reference)]
        self._confidence = Histogram(
            "bloomery_prediction_confidence", "Score of the likeliest class.", buckets=(*CONFIDENCE_EDGES, 1.0),
            registry=registry,
        )  # fmt: skip
        self._unknown = Counter(
            "bloomery_unknown_predictions", "Images that were answered as unknown.", registry=registry
        )
        if self._drift is not None:
            registry.register(_DriftCollector(self._drift))

    def count(self, label: int, confidence: float, *, brightness: float, is_unknown: bool) -> None:
        """Count the answer for one image.

        Args:
            label: the number of its likeliest class.
            confidence: the score of that.
            brightness: the mean of its normalised pixels.
            is_unknown: whether it was answered as unknown.
        """
        self._by_class[label].inc()
        self._confidence.observe(confidence)
        if is_unknown:
            self._unknown.inc()
        if self._drift is not None:
            self._drift.observe(label, confidence, brightness)


class _DriftCollector(Collector):
    """Measures drift for each scrape; nothing while too few answers are known."""

    def __init__(self, monitor: DriftMonitor) -> None:
        self._monitor = monitor

    def collect(self) -> Iterator[GaugeMetricFamily]:
        drift = self._monitor.measure()
        if drift is None:
            return
        index = "population stability index of the latest images against the held-out ones, without sampling bias."
        yield GaugeMetricFamily("bloomery_class_drift", f"Drift of the classes: {index}", drift.classes)
        yield GaugeMetricFamily("bloomery_confidence_drift", f"Drift of the confidence: {index}", drift.confidence)
        if drift.brightness is not None:
            yield GaugeMetricFamily("bloomery_brightness_drift", f"Drift of the brightness: {index}", drift.brightness)


def _series_names(labels: Sequence[str], reference: Reference | None) -> list[str]:
    """Return the label of each class' series: its name, or OTHER_CLASSES where there are more than MAX_CLASSES.

    Those that were predicted most often on held-out images keep their names; without a reference, the first ones.
    """
    if len(labels) <= MAX_CLASSES:
        return list(labels)
    frequency = np.zeros(len(labels)) if reference is None else np.asarray(reference.predictions)
    own = set(np.argsort(-frequency, kind="stable")[: MAX_CLASSES - 1].tolist())
    return [name if number in own else OTHER_CLASSES for number, name in enumerate(labels)]
