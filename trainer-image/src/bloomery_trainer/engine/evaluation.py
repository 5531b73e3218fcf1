"""Evaluation of a model: its answers on a split, and the metrics computed from them."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn import metrics as figures
from torch import Tensor, nn

from bloomery_model import Preprocess
from bloomery_trainer.data.decoders import normalise
from bloomery_trainer.errors import BadConfig
from bloomery_trainer.models import precision

TOP_K = 5

Batch = tuple[Tensor, Tensor]

_QUICK_CELLS = 2_000_000
"""Up to so many probabilities, the area under the curve takes less than a second: each class is a sort of its own."""


class NonFiniteOutputs(BadConfig):
    """A network whose outputs are not finite."""


@dataclass(frozen=True)
class Evaluation:
    """A model's answers on N images of C classes: probabilities float32 [N, C], true classes int64 [N]."""

    probabilities: NDArray[np.float32]
    labels: NDArray[np.int64]
    metrics: Mapping[str, float]
    energies: NDArray[np.float32] | None = None
    """Energies of the logits, float32 [N], where they were kept."""
    brightness: NDArray[np.float32] | None = None
    """Means of the images' normalised pixels, float32 [N], where they were kept."""

    @classmethod
    def of(
        cls,
        probabilities: NDArray[np.float32],
        labels: NDArray[np.int64],
        *,
        energies: NDArray[np.float32] | None = None,
        brightness: NDArray[np.float32] | None = None,
    ) -> Self:
        """Return the answers with their figures; raise NonFiniteOutputs if they are no numbers."""
        if not np.isfinite(probabilities).all():
            raise NonFiniteOutputs(
                "ModelNotFinite", "the model answers with something else than numbers (NaN): its weights are damaged"
            )
        return cls(probabilities, labels, score(probabilities, labels), energies, brightness)

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The class with the highest probability, for each image."""
        return np.asarray(self.probabilities.argmax(axis=1))


@torch.inference_mode()
def answers(
    model: nn.Module, batches: Iterable[Batch], preprocess: Preprocess, *, device: torch.device, exact: bool = False
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Run the model over all batches; probabilities float32 [N, C] and true classes int64 [N].

    Args:
        model: already on the device; left in evaluation mode.
        batches: images uint8 [B, 3, H, W] with their classes, in a fixed order.
        preprocess: for normalising.
        device: where to compute.
        exact: in float32 also where training uses bfloat16, as the model server computes.
    """
    model.eval()
    # Grown in place: joining a list of batches would hold everything twice, and a million answers are gigabytes.
    probabilities, labels = io.BytesIO(), io.BytesIO()
    classes = 0
    for images, true in batches:
        pixels = normalise(images.to(device, non_blocking=True), preprocess)
        with precision.reduced(device, side=preprocess.crop, enabled=not exact):
            logits = model(pixels)
        shares = logits.float().softmax(dim=1).cpu().contiguous()
        classes = shares.shape[1]
        probabilities.write(shares.numpy().data)
        labels.write(true.to(torch.int64).contiguous().numpy().data)
    true_classes = np.frombuffer(labels.getbuffer(), np.int64)
    return np.frombuffer(probabilities.getbuffer(), np.float32).reshape(len(true_classes), classes), true_classes


def score(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, float]:
    """Return the figures of each epoch: quick also for many images of many classes.

    loss (cross-entropy), top1, top5, precision, recall and f1 (the mean over the classes present, each counting the
    same), balanced (accuracy: the mean recall, by its usual name), kappa (Cohen's) and, where it is quick, auc. kappa
    and auc are left out where they are not defined, top5 where at most five classes make it 1 for any model.
    """
    predicted = probabilities.argmax(axis=1)
    precision, recall, f1, _ = figures.precision_recall_fscore_support(
        labels, predicted, labels=np.unique(labels), average="macro", zero_division=0.0
    )
    scores = {
        "loss": _loss(probabilities, labels),
        "top1": float(figures.accuracy_score(labels, predicted)),
        "precision": float(precision),
        "recall": float(recall),
        # scikit-learn's balanced_accuracy_score, without its warning where a class was answered that has no images.
        "balanced": float(recall),
        "f1": float(f1),
    }
    if probabilities.shape[1] > TOP_K:
        scores["top5"] = top_k(probabilities, labels, TOP_K)
    if len(np.union1d(labels, predicted)) > 1:
        scores["kappa"] = float(figures.cohen_kappa_score(labels, predicted))
    if probabilities.size <= _QUICK_CELLS:
        scores |= _mean_auc(class_aucs(probabilities, labels))
    return scores


def full_score(evaluation: Evaluation, aucs: Sequence[float | None] | None = None) -> dict[str, float]:
    """Return all metrics of the final report: those of each epoch, top1 to top5 if there are more classes, and others.

    ``aucs`` are those of ``class_aucs``, where they are known already.
    """
    probabilities, labels = evaluation.probabilities, evaluation.labels
    precision, recall, f1, _ = figures.precision_recall_fscore_support(
        labels, evaluation.predicted, average="weighted", zero_division=0.0
    )
    classes = probabilities.shape[1]
    return {
        **evaluation.metrics,
        **_mean_auc(class_aucs(probabilities, labels) if aucs is None else aucs),
        **{f"top{k}": top_k(probabilities, labels, k) for k in range(2, min(TOP_K, classes - 1) + 1)},
        "weightedPrecision": float(precision),
        "weightedRecall": float(recall),
        "weightedF1": float(f1),
    }


def top_k(probabilities: NDArray[np.float32], labels: NDArray[np.int64], k: int) -> float:
    """Return the share of images whose true class is among the k most probable."""
    if probabilities.shape[1] <= k:
        return 1.0
    # scikit-learn's own sorts all classes of all images: seconds for each epoch of a thousand classes.
    best = torch.topk(torch.from_numpy(probabilities), k, dim=1).indices
    hits = (best == torch.from_numpy(labels)[:, None]).any(dim=1)
    return float(hits.float().mean())


def class_aucs(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> list[float | None]:
    """Return for each class the area under its ROC curve against all others; None if no image is of it, or all."""
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    return [
        float(figures.roc_auc_score(labels == number, probabilities[:, number])) if 0 < count < len(labels) else None
        for number, count in enumerate(counts)
    ]


def interval95(share: float, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share that was measured on ``count`` images."""
    z = NormalDist().inv_cdf(0.975)
    centre = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def _loss(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    true = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    # What is next to nothing must not become infinite.
    return float(-np.log(true.clip(np.finfo(np.float32).eps)).mean())


def _mean_auc(aucs: Sequence[float | None]) -> dict[str, float]:
    known = [auc for auc in aucs if auc is not None]
    return {"auc": float(np.mean(known))} if known else {}
