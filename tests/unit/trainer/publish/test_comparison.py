"""Comparison of two models on the same images, and its confidence."""

from __future__ import annotations

import time
from collections.abc import Iterable
from math import comb

import numpy as np
import pytest
from numpy.typing import NDArray

from bloomery_trainer.publish.comparison import compare

pytestmark = pytest.mark.feature("T15")


def answered(classes_of_images: NDArray[np.int64], classes: int) -> NDArray[np.float32]:
    """Probabilities of a model whose answers these are."""
    return np.eye(classes, dtype=np.float32)[classes_of_images]


def wrong_at(labels: NDArray[np.int64], images: Iterable[int]) -> NDArray[np.float32]:
    """A model of two classes that is wrong on these images only."""
    answers = labels.copy()
    answers[list(images)] = 1 - answers[list(images)]
    return answered(answers, 2)


LABELS = np.arange(100) % 2


def test_the_p_value_of_top1_is_mcnemars_exact_one() -> None:
    # Images 0 to 2 only the other model gets right, 10 to 19 only the candidate; 50 to 54 neither.
    candidate = wrong_at(LABELS, [0, 1, 2, *range(50, 55)])
    other = wrong_at(LABELS, [*range(10, 20), *range(50, 55)])

    comparison = compare("top1", candidate, other, LABELS)

    assert (comparison.value, comparison.other) == (pytest.approx(0.92), pytest.approx(0.85))
    assert comparison.p_value == pytest.approx(sum(comb(13, k) for k in range(10, 14)) / 2**13)


def test_one_image_more_of_a_hundred_proves_nothing() -> None:
    comparison = compare("top1", wrong_at(LABELS, range(10)), wrong_at(LABELS, range(11)), LABELS)

    assert comparison.value > comparison.other
    assert comparison.p_value == 0.5
    assert comparison.low == 0.0
    assert 0.02 < comparison.high < 0.05


@pytest.mark.parametrize("metric", ["top1", "recall", "balanced", "precision", "f1"])
def test_equal_answers_are_no_better(metric: str) -> None:
    answers = wrong_at(LABELS, range(10))
    comparison = compare(metric, answers, answers, LABELS)

    assert comparison.p_value == 1.0
    assert (comparison.low, comparison.high) == (0.0, 0.0)


@pytest.mark.parametrize("metric", ["recall", "balanced", "precision", "f1"])
def test_a_clear_gain_is_proven_for_means_over_classes(metric: str) -> None:
    comparison = compare(metric, wrong_at(LABELS, range(5)), wrong_at(LABELS, range(40)), LABELS)

    assert comparison.p_value < 0.001
    assert comparison.low < comparison.value - comparison.other < comparison.high
    assert comparison.low > 0.2


def test_a_rare_classs_gain_counts_for_balanced_but_is_uncertain() -> None:
    labels = np.array([0] * 96 + [1] * 4)
    candidate, other = labels.copy(), labels.copy()
    candidate[96], other[96:98] = 0, 0
    comparison = compare("balanced", answered(candidate, 2), answered(other, 2), labels)

    assert comparison.value - comparison.other == pytest.approx(0.125)
    # In (3/4)^4 of all resamples or more, the one image that differs is missing or outweighed.
    assert comparison.p_value > 0.25


def test_top5_is_compared_by_what_is_among_five() -> None:
    labels = np.zeros(60, np.int64)
    candidate = np.tile(np.array([0.3, 0.2, 0.2, 0.1, 0.1, 0.1], np.float32), (60, 1))
    other = candidate[:, ::-1] + np.float32([0, 0.01, 0, 0, 0, 0])
    other[:, 0] = 0
    comparison = compare("top5", candidate, np.ascontiguousarray(other), labels)

    assert (comparison.value, comparison.other) == (1.0, 0.0)
    assert comparison.p_value == pytest.approx(1 / 2001)


def test_the_same_answers_give_the_same_comparison() -> None:
    first, second = (compare("f1", wrong_at(LABELS, range(5)), wrong_at(LABELS, range(9)), LABELS) for _ in range(2))

    assert first == second


def test_a_hundred_thousand_images_of_top1_are_compared_at_once() -> None:
    labels = np.arange(100_000) % 2
    began = time.process_time()
    comparison = compare("top1", wrong_at(labels, range(1000)), wrong_at(labels, range(1500)), labels)

    assert comparison.low == pytest.approx(0.005, abs=0.002)
    # Two thousand passes over all images would take minutes.
    assert time.process_time() - began < 20
