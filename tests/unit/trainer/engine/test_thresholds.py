"""Confidence thresholds: the share that is answered above each, and the precision that a class reaches."""

from __future__ import annotations

import numpy as np
import pytest

from bloomery_trainer.engine import thresholds
from bloomery_trainer.engine.evaluation import Evaluation, interval95

pytestmark = pytest.mark.feature("T27")


def answers(*groups: tuple[int, float, int, int]) -> Evaluation:
    """Groups of (images, confidence in class 0, how many of them are of class 0, …) of two classes."""
    probabilities, labels = [], []
    for images, confidence, right, predicted in groups:
        row = [0.0, 0.0]
        row[predicted], row[1 - predicted] = confidence, 1 - confidence
        probabilities += [row] * images
        labels += [predicted] * right + [1 - predicted] * (images - right)
    return Evaluation.of(np.array(probabilities, np.float32), np.array(labels))


def test_levels_count_answers_above_a_confidence_and_right_ones_among_them() -> None:
    levels = {level.confidence: level for level in thresholds.levels(answers((60, 0.95, 57, 0), (40, 0.65, 20, 1)))}

    assert (levels[0.0].answered, levels[0.0].right) == (1.0, pytest.approx(0.77))
    assert (levels[0.7].answered, levels[0.7].right) == (0.6, pytest.approx(0.95))
    assert (levels[0.98].answered, levels[0.98].right) == (0.0, None)


def test_a_threshold_is_the_least_confidence_that_proves_the_precision() -> None:
    """The lower bound of the precision counts."""
    evaluation = answers((200, 0.95, 199, 0), (100, 0.7, 50, 0), (10, 0.8, 10, 1))

    by_precision = thresholds.precision_thresholds(evaluation)

    assert interval95(199 / 200, 200)[0] > 0.95
    assert interval95(249 / 300, 300)[0] < 0.8
    assert by_precision["0.95"] == [pytest.approx(0.95, abs=1e-5), None], "ten right answers prove no precision of 0.95"
    assert by_precision["0.8"][0] == pytest.approx(0.95, abs=1e-5)
    assert by_precision["0.99"] == [None, None]
    assert by_precision["0.95"][0] is not None
    assert by_precision["0.95"][0] <= np.float32(0.95), "the answers that reached it stay above it"


def test_answers_of_one_confidence_share_their_threshold() -> None:
    """A threshold cannot take the right ones of equal answers and leave the wrong ones out."""
    assert thresholds.precision_thresholds(answers((100, 0.9, 60, 0), (5, 0.8, 5, 1)))["0.8"] == [None, None]


def test_a_class_that_is_never_answered_has_no_threshold() -> None:
    assert thresholds.precision_thresholds(answers((100, 0.9, 100, 0)))["0.8"] == [pytest.approx(0.9, abs=1e-5), None]


def test_the_promise_holds_on_images_that_chose_nothing() -> None:
    """Of answers above the threshold for 0.9 on one half, at least 0.9 are right on the other, within its interval."""
    random = np.random.default_rng(0)
    truth = random.dirichlet(np.full(3, 0.3), size=4000)
    labels = np.array([random.choice(3, p=row) for row in truth])
    halves = [Evaluation.of(truth[part].astype(np.float32), labels[part]) for part in np.array_split(range(4000), 2)]
    chosen = thresholds.precision_thresholds(halves[0])["0.9"]
    judged = halves[1]
    for number, threshold in enumerate(chosen):
        assert threshold is not None
        above = (judged.predicted == number) & (judged.probabilities.max(axis=1) >= threshold)
        share = float((judged.labels[above] == number).mean())
        assert interval95(share, int(above.sum()))[1] >= 0.9
