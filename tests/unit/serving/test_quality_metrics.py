"""Metrics of answers: a bounded number of series, whatever the number of classes."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from bloomery_model.statistics import Histogram, Reference
from bloomery_serving.quality_metrics import MAX_CLASSES, OTHER_CLASSES, QualityMetrics

pytestmark = pytest.mark.feature("S18")


def series(registry: CollectorRegistry) -> list[str]:
    lines = generate_latest(registry).decode().splitlines()
    return [line for line in lines if line.startswith("bloomery_predictions_total{")]


def test_each_of_300_classes_has_a_series_from_the_start() -> None:
    registry = CollectorRegistry()
    QualityMetrics(registry, [f"c{number}" for number in range(MAX_CLASSES)], None)
    assert len(series(registry)) == MAX_CLASSES


def test_of_21000_classes_the_most_predicted_have_a_series() -> None:
    classes, registry = 21_000, CollectorRegistry()
    reference = Reference(predictions=(0,) * (classes - 1) + (7,), confidence=Histogram(edges=(0.5,), counts=(0, 7)))
    metrics = QualityMetrics(registry, [f"c{number}" for number in range(classes)], reference)
    for label in (classes - 1, classes - 2, classes - 3):
        metrics.count(label, 0.5, brightness=0.0, is_unknown=False)
    assert len(series(registry)) == MAX_CLASSES
    assert 'bloomery_predictions_total{class="c20999"} 1.0' in series(registry)
    assert f'bloomery_predictions_total{{class="{OTHER_CLASSES}"}} 2.0' in series(registry)
