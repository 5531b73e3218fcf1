"""A linear head fitted on features that the body computes once for each view of each image.

With a frozen body the same image always has the same features, so training the head by epochs computes them again and
again. Computed once, the head is a multinomial logistic regression: a convex problem that takes seconds, with one
hyperparameter, the strength of regularization, that cross-validation chooses. On 32 small datasets this reaches what
training a head by gradient descent does at a tenth to a hundredth of the cost (arXiv:2209.07932).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Tensor, nn

from bloomery_model.cgroup import cpu_count
from bloomery_trainer.errors import BadConfig

Features = NDArray[np.float32]

FOLDS = 5
STRENGTHS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
"""Inverse regularization (scikit-learn's C) that cross-validation chooses from, for features of unit variance."""

CROSS_VALIDATION_IMAGES = 20_000
"""Strengths are compared on at most so many images: beyond, their order no longer changes, and fits take minutes."""

STRENGTH_IMAGES = 5_000
"""The same for probabilities out of fold, which depend less on the strength."""

_MIN_DEVIATION_SHARE = 0.1
"""Of the mean standard deviation, the least by which a feature is scaled."""

_ITERATIONS = 300
_TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True)
class HeadFit:
    """The fit of a head.

    Attributes:
        strength: the inverse regularization that was chosen.
        accuracy: cross-validated top-1 on the training images, 0 to 1; None if a class has too few images to split.
        images: how many images it was fitted on.
        views: how many views of each image.
    """

    strength: float
    accuracy: float | None
    images: int
    views: int

    @property
    def sentence(self) -> str:
        """A sentence on how the head was fitted."""
        judged = "" if self.accuracy is None else f", cross-validated top1 {self.accuracy:.4f}"
        return (
            f"The head was fitted on features of {self.images} images in {self.views} views each "
            f"(inverse regularization {self.strength:g}{judged})."
        )


def find_classifier(model: nn.Module, head: frozenset[str]) -> nn.Linear:
    """Return the linear layer that computes the logits in evaluation mode.

    Args:
        model: one of torchvision's classifiers.
        head: names of the parameters whose shape depends on the number of classes, those of auxiliary heads included.
    """
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and f"{name}.weight" in head and not name.startswith(("AuxLogits", "aux"))
    }
    if len(layers) != 1:
        raise BadConfig(
            "InvalidConfig",
            "hyperparameters.trainable Head needs a network that ends in one linear layer; "
            f"this one has {len(layers)} of them",
        )
    return next(iter(layers.values()))


def compute_features(
    model: nn.Module, classifier: nn.Linear, batches: Iterable[Tensor], *, autocast: torch.autocast
) -> Features:
    """Return what reaches the classifier for each image, float32 [N, D].

    Args:
        model: on its device; left in evaluation mode.
        classifier: the layer of the model whose input the features are.
        batches: normalized images float32 [B, 3, H, W], on the model's device.
        autocast: the precision to compute in; bfloat16 changes features by less than a crop does.
    """
    model.eval()
    captured: list[Tensor] = []
    rows: list[Tensor] = []

    def capture(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        captured.append(inputs[0])

    handle = classifier.register_forward_pre_hook(capture)
    try:
        with torch.inference_mode():
            for images in batches:
                with autocast:
                    model(images)
                rows.append(captured.pop().float().cpu())
    finally:
        handle.remove()
    return torch.cat(rows).numpy() if rows else np.empty((0, classifier.in_features), np.float32)


def fit_head(
    classifier: nn.Linear, views: Sequence[Features], labels: NDArray[np.int64], *, balance: bool, seed: int
) -> HeadFit:
    """Fit the classifier's weight and bias in place on the features of the training images.

    Args:
        classifier: the layer to fit, for classes 0 to C-1.
        views: for each view, the features of all images, float32 [N, D]; the first is what evaluation sees.
        labels: the class of each image, int64 [N].
        balance: weigh each class the same, however many images it has.
        seed: of the folds.
    """
    stacked = np.concatenate(views)
    mean, scale = stacked.mean(axis=0), _scale(stacked)
    scaled = [(view - mean) / scale for view in views]
    weights = "balanced" if balance else None
    with _limit_threads():
        strength, accuracy = _choose_strength(scaled, labels, weights, seed)
        model = _model(weights)
        _fit(model, strength, np.concatenate(scaled), np.tile(labels, len(views)))
    _write(classifier, model, mean=mean, scale=scale)
    return HeadFit(strength=strength, accuracy=accuracy, images=len(labels), views=len(views))


def out_of_fold_probabilities(features: Features, labels: NDArray[np.int64], *, seed: int) -> Features:
    """Return the probability of each class for each image, from a classifier that was fitted without the image.

    The strength of regularization is chosen on at most ``STRENGTH_IMAGES`` images.

    Args:
        features: of one view of each image, float32 [N, D].
        labels: the class of each image, int64 [N], from 0 to C-1; each class has at least ``FOLDS`` images.
        seed: of the folds.

    Returns:
        Float32 [N, C].
    """
    scaled = (features - features.mean(axis=0)) / _scale(features)
    probabilities = np.empty((len(labels), int(labels.max()) + 1), np.float32)
    with _limit_threads():
        strength, _ = _choose_strength([scaled], labels, None, seed, limit=STRENGTH_IMAGES)
        for train, held_out in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(scaled, labels):
            model = _model(None)
            _fit(model, strength, scaled[train], labels[train])
            probabilities[held_out] = model.predict_proba(scaled[held_out])
    return probabilities


def _limit_threads() -> AbstractContextManager[object]:
    """Use as many threads as the container has processors; BLAS starts one for each processor of the node."""
    limits: AbstractContextManager[object] = threadpool_limits(limits=cpu_count(), user_api="blas")
    return limits


def _scale(features: Features) -> Features:
    """Return what each feature is divided by, float32 [D]."""
    deviation = features.std(axis=0)
    # A feature that hardly varies would get weights so large that a small shift of it decides everything.
    scale: Features = np.maximum(deviation, _MIN_DEVIATION_SHARE * deviation.mean() + 1e-12)
    return scale


def _choose_strength(
    views: Sequence[Features],
    labels: NDArray[np.int64],
    weights: str | None,
    seed: int,
    *,
    limit: int = CROSS_VALIDATION_IMAGES,
) -> tuple[float, float | None]:
    """Return the strength that cross-validation chooses, and the top-1 there.

    The loss separates strengths whose top-1 is equal by chance, and it punishes overconfident scores. Of those whose
    loss is within one standard error of the lowest, the most regularized one is taken (the one-standard-error rule of
    Breiman et al., Classification and Regression Trees, 1984).
    """
    rows = _sample(labels, seed, limit)
    folds = min(FOLDS, int(np.bincount(labels[rows])[np.unique(labels[rows])].min()))
    if folds < 2:
        return STRENGTHS[len(STRENGTHS) // 2], None
    splits = StratifiedKFold(folds, shuffle=True, random_state=seed).split(rows, labels[rows])
    # The fit for one strength is nearly that for the next: starting there takes half of the iterations.
    judged = [_Fold(rows[train], rows[held_out], _model(weights, warm_start=True)) for train, held_out in splits]
    trials: list[_Trial] = []
    for strength in STRENGTHS:
        trials.append(_cross_validate(views, labels, judged, strength))
        lowest = min(trials, key=lambda trial: trial.loss)
        if trials[-1].loss > lowest.loss + lowest.standard_error:
            # Regularized less and less, the loss has begun to rise, and fits take ever more iterations.
            break
    chosen = next(trial for trial in trials if trial.loss <= lowest.loss + lowest.standard_error)
    return chosen.strength, chosen.accuracy


@dataclass(frozen=True, kw_only=True)
class _Trial:
    strength: float
    loss: float
    standard_error: float
    accuracy: float


class _Fold(NamedTuple):
    """Rows to fit on and rows to judge by, and the model."""

    inside: NDArray[np.int64]
    outside: NDArray[np.int64]
    model: LogisticRegression


def _cross_validate(
    views: Sequence[Features], labels: NDArray[np.int64], folds: Sequence[_Fold], strength: float
) -> _Trial:
    """Fit on all views of the training folds, evaluate on the first view of the fold held out."""
    losses, hits = [], []
    for inside, outside, model in folds:
        _fit(model, strength, np.concatenate([view[inside] for view in views]), np.tile(labels[inside], len(views)))
        probabilities = model.predict_proba(views[0][outside])
        truth = np.searchsorted(model.classes_, labels[outside])
        losses.append(-np.log(np.clip(probabilities[np.arange(len(truth)), truth], 1e-12, 1.0)))
        hits.append(probabilities.argmax(axis=1) == truth)
    each = np.concatenate(losses)
    return _Trial(
        strength=strength,
        loss=float(each.mean()),
        standard_error=float(each.std() / np.sqrt(len(each))),
        accuracy=float(np.concatenate(hits).mean()),
    )


def _sample(labels: NDArray[np.int64], seed: int, limit: int) -> NDArray[np.int64]:
    rows = np.arange(len(labels))
    if len(rows) <= limit:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, limit, replace=False))


def _model(weights: str | None, *, warm_start: bool = False) -> LogisticRegression:
    return LogisticRegression(class_weight=weights, max_iter=_ITERATIONS, tol=_TOLERANCE, warm_start=warm_start)


def _fit(model: LogisticRegression, strength: float, features: Features, labels: NDArray[np.int64]) -> None:
    """Fit the model in place; one that ends at the iteration limit is as good for choosing and for serving."""
    model.set_params(C=strength)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features, labels)


def _write(classifier: nn.Linear, fit: LogisticRegression, *, mean: Features, scale: Features) -> None:
    """Put the fitted coefficients into the layer, the scaling of features folded in."""
    coefficients, intercepts = fit.coef_, fit.intercept_
    if len(fit.classes_) == 2:
        # scikit-learn keeps the log-odds of the second class alone.
        coefficients = np.concatenate([-coefficients / 2, coefficients / 2])
        intercepts = np.concatenate([-intercepts / 2, intercepts / 2])
    weight = coefficients / scale
    bias = intercepts - weight @ mean
    with torch.no_grad():
        # A class without training images can never be the answer.
        classifier.weight.zero_()
        classifier.bias.fill_(float(bias.min()) - 20.0)
        classifier.weight[fit.classes_] = torch.as_tensor(weight, dtype=classifier.weight.dtype).to(
            classifier.weight.device
        )
        classifier.bias[fit.classes_] = torch.as_tensor(bias, dtype=classifier.bias.dtype).to(classifier.bias.device)
