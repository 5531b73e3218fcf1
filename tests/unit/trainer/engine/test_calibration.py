"""One temperature by which a model's scores mean what they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bloomery_model.statistics import energies_of
from bloomery_trainer.engine import calibration
from bloomery_trainer.engine.calibration import Reliability, calibrate, fit_temperature, with_temperature
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

    calibration, after = calibrate(EvaluationResult(validation, test))

    assert calibration.split == "test"
    assert calibration.before.error > 0.15
    assert calibration.after.error < 0.03
    assert calibration.after.brier < calibration.before.brier
    assert after.final.metrics["top1"] == test.metrics["top1"]
    assert after.final.metrics["loss"] < test.metrics["loss"]


def test_figures_on_validation_images_are_cross_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[int] = []

    def fit(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
        fitted.append(len(labels))
        return fit_temperature(probabilities, labels)

    monkeypatch.setattr(calibration, "fit_temperature", fit)
    result, _ = calibrate(EvaluationResult(Evaluation.of(*drawn(200, sharpness=3.0)), None))

    assert fitted == [200, *[100] * 20]
    assert (result.split, result.fitted_on) == ("validation", 200)


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

    calibrated = calibrate(result, temperature=0.5)[1].validation.energies

    assert calibrated is not None
    assert calibrated == pytest.approx(energies_of(logits / 0.5), rel=1e-4)
