"""Drift of answers: nothing by chance, much where the answers change, whatever the number of classes."""

from __future__ import annotations

import numpy as np
import pytest

from bloomery_model.statistics import Histogram, Reference
from bloomery_serving.drift import MIN_ANSWERS, WINDOW_ANSWERS, Drift, DriftMonitor

pytestmark = pytest.mark.feature("S18")

ALERT = 0.25
EDGES = (0.5, 0.9)
SEEDS = range(20)


def reference(shares: list[float], *, images: int = 1000) -> Reference:
    """A reference with these shares of the classes; of ten answers, one is unsure and nine are sure."""
    counts = np.random.default_rng(99).multinomial(images, shares)
    return Reference(
        predictions=tuple(counts.tolist()),
        confidence=Histogram(edges=EDGES, counts=(0, images // 10, images * 9 // 10)),
        brightness=Histogram(edges=(-0.5, 0.5), counts=(images // 4, images // 2, images // 4)),
    )


def drift(known: Reference, classes: np.ndarray, confidences: np.ndarray, *, darker_by: float = 0) -> Drift:
    """Measure the drift of answers to images as bright as those of the reference, or darker."""
    monitor = DriftMonitor(known)
    brightness = np.random.default_rng(7).choice([-1.0, 0.0, 0.0, 1.0], len(classes)) - darker_by
    for label, confidence, mean in zip(classes, confidences, brightness, strict=True):
        monitor.observe(int(label), float(confidence), float(mean))
    measured = monitor.measure()
    assert measured is not None
    return measured


def usual_confidences(random: np.random.Generator, count: int) -> np.ndarray:
    return np.where(random.random(count) < 0.1, 0.7, 0.99)


@pytest.mark.parametrize("classes", [2, 5, 300, 21_000])
@pytest.mark.parametrize("answers", [MIN_ANSWERS, WINDOW_ANSWERS])
def test_the_same_distribution_is_no_drift(classes: int, answers: int) -> None:
    shares = np.full(classes, 1 / classes)
    known = reference(shares.tolist())
    for seed in SEEDS:
        random = np.random.default_rng(seed)
        measured = drift(known, random.choice(classes, answers, p=shares), usual_confidences(random, answers))
        assert measured.classes < ALERT
        assert measured.confidence < ALERT
        assert measured.brightness is not None
        assert measured.brightness < ALERT


@pytest.mark.parametrize("classes", [2, 5, 300, 21_000])
def test_one_class_for_everything_is_drift(classes: int) -> None:
    known = reference([1 / classes] * classes)
    sure = np.full(WINDOW_ANSWERS, 0.99)
    measured = drift(known, np.full(WINDOW_ANSWERS, classes - 1), sure)
    assert measured.classes > 1


def test_a_window_of_unsure_answers_is_drift_of_the_confidence_alone() -> None:
    random = np.random.default_rng(0)
    measured = drift(reference([0.5, 0.5]), random.choice(2, WINDOW_ANSWERS), np.full(WINDOW_ANSWERS, 0.6))
    assert measured.confidence > 1
    assert measured.classes < ALERT


def test_darker_images_are_drift_of_the_brightness_alone() -> None:
    """A good network may be as sure of them, and of the same classes."""
    random = np.random.default_rng(0)
    confidences = usual_confidences(random, WINDOW_ANSWERS)
    measured = drift(reference([0.5, 0.5]), random.choice(2, WINDOW_ANSWERS), confidences, darker_by=1)
    assert measured.brightness is not None
    assert measured.brightness > 0.5
    assert max(measured.classes, measured.confidence) < ALERT


def test_only_the_latest_answers_count() -> None:
    random = np.random.default_rng(0)
    odd, usual = np.full(400, 0.3), usual_confidences(random, WINDOW_ANSWERS)
    classes = random.choice(2, 400 + WINDOW_ANSWERS)
    assert drift(reference([0.5, 0.5]), classes, np.append(odd, usual)).confidence < ALERT


def test_a_rare_class_does_not_dominate_the_index() -> None:
    """Without pooling, a class with one held-out image that is asked for ten times would be an alarm."""
    known = Reference(predictions=(500, 499, 1, 0), confidence=Histogram(edges=EDGES, counts=(0, 100, 900)))
    random = np.random.default_rng(0)
    classes = np.concatenate((np.arange(490) % 2, np.full(8, 2), np.full(2, 3)))
    assert drift(known, classes, usual_confidences(random, WINDOW_ANSWERS)).classes < ALERT / 2


def test_the_index_has_no_bias_of_small_windows() -> None:
    """Twenty classes and a hundred answers: the plain index would be 0.21 on average without any drift."""
    known = reference([0.05] * 20, images=100_000)
    indices = [
        drift(known, np.random.default_rng(seed).choice(20, MIN_ANSWERS), np.full(MIN_ANSWERS, 0.99)).classes
        for seed in range(100)
    ]
    assert np.mean(indices) < 0.05


def test_too_few_answers_say_nothing() -> None:
    monitor = DriftMonitor(reference([0.5, 0.5]))
    for _ in range(MIN_ANSWERS - 1):
        monitor.observe(0, 0.9, 0.0)
    assert monitor.measure() is None
