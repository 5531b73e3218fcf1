"""The head that is fitted on features computed once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_info
from torch import nn

from bloomery_trainer.engine import head
from bloomery_trainer.errors import BadConfig
from bloomery_trainer.models.presets import ALIASES, PRESETS

Arrays = tuple[NDArray[np.float32], NDArray[np.int64]]


def clusters(images: NDArray[np.int64], *, spread: float, seed: int = 0, dimensions: int = 24) -> Arrays:
    """Features around one centre for each class; `images` has the number of each class."""
    centres = np.random.default_rng(7).normal(size=(len(images), dimensions))
    labels = np.repeat(np.arange(len(images)), images)
    noise = np.random.default_rng(seed).normal(scale=spread, size=(len(labels), dimensions))
    # Units as different as those of real features.
    features = (centres[labels] + noise) * np.geomspace(0.01, 10, dimensions) + 3
    return features.astype(np.float32), labels.astype(np.int64)


def logits(layer: nn.Linear, features: NDArray[np.float32]) -> torch.Tensor:
    with torch.inference_mode():
        return layer(torch.from_numpy(features))


def accuracy(layer: nn.Linear, arrays: Arrays) -> float:
    return float((logits(layer, arrays[0]).argmax(dim=1).numpy() == arrays[1]).mean())


@pytest.mark.feature("T23")
@pytest.mark.parametrize("name", sorted(set(PRESETS) - set(ALIASES)))
def test_each_presets_features_reach_one_linear_classifier(name: str) -> None:
    preset = PRESETS[name]
    size = max(64, preset.smallest)
    with torch.device("meta"):
        model = preset.build(7, image_size=size)
    classifier = head.find_classifier(model, preset.head(image_size=size))

    assert classifier.out_features == 7


@pytest.mark.feature("T23")
def test_features_are_what_the_classifier_receives() -> None:
    preset = PRESETS["mobilenet-v2"]
    torch.manual_seed(0)
    model = preset.build(3, image_size=32)
    classifier = head.find_classifier(model, preset.head(image_size=32))
    images = torch.randn(5, 3, 32, 32)
    autocast = torch.autocast("cpu", enabled=False)
    features = head.compute_features(model, classifier, iter([images[:2], images[2:]]), autocast=autocast)

    assert features.shape == (5, 1280)
    with torch.inference_mode():
        torch.testing.assert_close(logits(classifier, features), model.eval()(images), rtol=1e-4, atol=1e-5)


@pytest.mark.feature("T23")
def test_a_fitted_head_separates_classes_it_has_not_seen_images_of() -> None:
    train, held_out = clusters(np.array([60, 60, 60]), spread=0.8), clusters(np.array([50, 50, 50]), spread=0.8, seed=1)
    layer = nn.Linear(24, 3)
    fit = head.fit_head(layer, [train[0]], train[1], balance=False, seed=0)

    assert accuracy(layer, held_out) > 0.95
    assert fit.accuracy == pytest.approx(accuracy(layer, held_out), abs=0.05)
    assert (fit.images, fit.views) == (180, 1)


@pytest.mark.feature("T23")
def test_noisier_features_get_a_stronger_regularization() -> None:
    clean, noisy = clusters(np.array([30, 30]), spread=0.3), clusters(np.array([30, 30]), spread=6.0)
    layer = nn.Linear(24, 2)
    fits = [head.fit_head(layer, [part[0]], part[1], balance=False, seed=0) for part in (clean, noisy)]

    assert fits[1].strength < fits[0].strength


@pytest.mark.feature("T23")
def test_two_classes_get_calibrated_log_odds() -> None:
    train = clusters(np.array([80, 80]), spread=2.5)
    layer = nn.Linear(24, 2)
    head.fit_head(layer, [train[0]], train[1], balance=False, seed=0)
    probabilities = logits(layer, train[0]).softmax(dim=1)[:, 1].numpy()

    # A logistic regression with an intercept gives each class its share on average.
    assert probabilities.mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.feature("T23")
def test_a_class_without_training_images_is_never_the_answer() -> None:
    features, labels = clusters(np.array([40, 40]), spread=0.5)
    layer = nn.Linear(24, 3)
    head.fit_head(layer, [features], np.where(labels == 1, 2, 0), balance=False, seed=0)

    assert set(logits(layer, features).argmax(dim=1).tolist()) == {0, 2}


@pytest.mark.feature("T24")
def test_balance_raises_the_recall_of_a_rare_class() -> None:
    train, held_out = clusters(np.array([400, 16]), spread=4.0), clusters(np.array([100, 100]), spread=4.0, seed=1)
    recalls = []
    for balance in (False, True):
        layer = nn.Linear(24, 2)
        head.fit_head(layer, [train[0]], train[1], balance=balance, seed=0)
        rare = held_out[1] == 1
        recalls.append(float((logits(layer, held_out[0][rare]).argmax(dim=1) == 1).float().mean()))

    assert recalls[1] > recalls[0] + 0.1


def test_one_image_of_a_class_is_enough_to_fit() -> None:
    features, labels = clusters(np.array([20, 1]), spread=0.3)
    layer = nn.Linear(24, 2)
    fit = head.fit_head(layer, [features], labels, balance=False, seed=0)

    assert fit.accuracy is None
    assert accuracy(layer, (features, labels)) >= 20 / 21


def test_a_network_without_a_linear_classifier_is_refused_in_words() -> None:
    with pytest.raises(BadConfig, match="ends in one linear layer"):
        head.find_classifier(nn.Sequential(nn.Conv2d(3, 4, 1)), frozenset({"0.weight"}))


@pytest.mark.feature("T22")
def test_fits_use_as_many_threads_as_the_container_has_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[int] = set()
    fit = LogisticRegression.fit

    def record(self: LogisticRegression, *args: Any, **kwargs: Any) -> LogisticRegression:
        seen.update(library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas")
        return fit(self, *args, **kwargs)

    monkeypatch.setattr(head, "cpu_count", lambda: 1)
    monkeypatch.setattr(LogisticRegression, "fit", record)
    features, labels = clusters(np.array([20, 20, 20]), spread=0.8)
    head.fit_head(nn.Linear(24, 3), [features], labels, balance=False, seed=0)
    head.out_of_fold_probabilities(features, labels, seed=0)

    assert seen == {1}
