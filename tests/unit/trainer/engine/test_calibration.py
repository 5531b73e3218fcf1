"""One temperature by which a model's scores mean what they say."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar  # type: ignore[import-untyped]

from bloomery_model.statistics import energies_of
from bloomery_trainer.engine.calibration import Reliability, calibrate, fit_temperature, rescaled, with_temperature
from bloomery_trainer.engine.evaluation import Evaluation
from bloomery_trainer.engine.held_out import EvaluationResult

pytestmark = pytest.mark.feature("T26")


def drawn(count: int, *, sharpness: float, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Answers of a model whose logits are ``sharpness`` times as large as the truth is certain."""
    random = np.random.default_rng(seed)
    logits = random.normal(scale=2, size=(count, 5))
    truth = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.array([random.choice(5, p=row) for row in truth])
    return with_temperature(truth.astype(np.float32), 1 / sharpness), labels


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 3.0])
def test_the_temperature_undoes_how_much_too_sure_a_model_is(sharpness: float) -> None:
    assert fit_temperature(*drawn(4000, sharpness=sharpness)) == pytest.approx(sharpness, rel=0.06)


def test_calibration_lowers_the_error_of_scores_that_chose_nothing() -> None:
    validation, test = (Evaluation.of(*drawn(3000, sharpness=3.0, seed=seed)) for seed in (1, 2))

    result = EvaluationResult(validation, test)
    calibration = calibrate(result)
    after = rescaled(result, calibration.temperature)

    assert calibration.split == "test"
    assert calibration.before.error > 0.15
    assert calibration.after.error < 0.04
    assert calibration.after.brier < calibration.before.brier
    assert after.final.metrics["top1"] == test.metrics["top1"]
    assert after.final.metrics["loss"] < test.metrics["loss"]


def test_figures_on_validation_images_are_cross_fitted() -> None:
    probabilities, labels = drawn(200, sharpness=3.0)
    result = calibrate(EvaluationResult(Evaluation.of(probabilities, labels), None))

    random, errors = np.random.default_rng(0), []
    for _ in range(10):
        one, other = np.array_split(random.permutation(200), 2)
        temperatures = np.empty(200)
        temperatures[one] = fit_temperature(probabilities[other], labels[other])
        temperatures[other] = fit_temperature(probabilities[one], labels[one])
        errors.append(Reliability.of(probabilities, labels, temperatures).error)
    assert result.after.error == pytest.approx(np.mean(errors), rel=1e-6)
    assert result.after.error < result.before.error
    assert (result.split, result.fitted_on) == ("validation", 200)


def test_the_temperature_is_the_one_of_the_highest_likelihood() -> None:
    probabilities, labels = drawn(500, sharpness=1.7)

    def loss(temperature: float) -> float:
        scores = with_temperature(probabilities, temperature)[np.arange(500), labels].astype(np.float64)
        return float(-np.log(scores).sum() + math.log(temperature) ** 2 / 2)

    exact = minimize_scalar(loss, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-6}).x
    assert fit_temperature(probabilities, labels) == pytest.approx(exact, rel=2e-3)


def test_calibration_of_many_answers_takes_little_memory_beside_them() -> None:
    probabilities = np.random.default_rng(0).dirichlet(np.full(1000, 0.1), size=4_000).astype(np.float32)
    evaluation = Evaluation(probabilities, probabilities.argmax(axis=1), {"top1": 1.0})
    tracemalloc.start()
    try:
        calibrate(EvaluationResult(evaluation, None))
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert most < probabilities.nbytes


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_images_that_are_all_right_leave_the_temperature_moderate(count: int) -> None:
    probabilities = np.tile(np.array([[0.9, 0.1]], np.float32), (count, 1))
    assert 0.2 < fit_temperature(probabilities, np.zeros(count, np.int64)) <= 1


def test_a_model_sure_of_wrong_answers_gets_a_finite_temperature() -> None:
    probabilities = np.array([[1.0, 0.0]] * 10, np.float32)
    temperature = fit_temperature(probabilities, np.ones(10, np.int64))
    assert 1 < temperature <= 20
    assert np.isfinite(with_temperature(probabilities, temperature)).all()


@given(st.integers(0, 1000), st.floats(0.05, 20))
def test_no_temperature_changes_an_answer(seed: int, temperature: float) -> None:
    probabilities = np.random.default_rng(seed).dirichlet(np.full(4, 0.3), size=20).astype(np.float32)
    scaled = with_temperature(probabilities, temperature)
    top = probabilities.max(axis=1)
    assert scaled[np.arange(20), probabilities.argmax(axis=1)] == pytest.approx(scaled.max(axis=1), abs=1e-6)
    assert scaled.sum(axis=1) == pytest.approx(np.ones(20), abs=1e-5)
    assert ((scaled.max(axis=1) >= top - 1e-6) == (temperature <= 1)).sum() >= 15


def test_the_error_is_the_mean_distance_of_confidence_and_accuracy() -> None:
    probabilities = np.array([[0.9, 0.1]] * 10 + [[0.6, 0.4]] * 10, np.float32)
    labels = np.array([0] * 8 + [1] * 2 + [0] * 6 + [1] * 4)

    reliability = Reliability.of(probabilities, labels)

    assert reliability.error == pytest.approx(0.5 * 0.1)
    assert reliability.brier == pytest.approx((8 * 0.02 + 2 * 1.62 + 6 * 0.32 + 4 * 0.72) / 20)
    assert [(each.images, each.accuracy) for each in reliability.bins] == [(10, 0.6), (10, 0.8)]


@pytest.mark.feature("S17")
def test_energies_are_those_of_the_logits_that_a_temperature_has_divided() -> None:
    logits = np.random.default_rng(0).normal(scale=4, size=(50, 3)).astype(np.float32)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = shares / shares.sum(axis=1, keepdims=True)
    result = EvaluationResult(Evaluation.of(probabilities, np.arange(50) % 3, energies=energies_of(logits)), None)

    calibrated = rescaled(result, 0.5).validation.energies

    assert calibrated is not None
    assert calibrated == pytest.approx(energies_of(logits / 0.5), rel=1e-4)
