"""How good a model is: its answers on a split, and the figures that scikit-learn makes of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn import metrics as figures
from torch import Tensor, nn

from bloomery_trainer.images import Preprocess
from bloomery_trainer.train.data import normalise

TOP_K = 5

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Evaluation:
    """A model's answers on N images of C classes: probabilities float32 [N, C], true classes int64 [N]."""

    probabilities: NDArray[np.float32]
    labels: NDArray[np.int64]
    metrics: Mapping[str, float]

    @classmethod
    def of(cls, probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> Evaluation:
        """The answers with their figures."""
        return cls(probabilities, labels, score(probabilities, labels))

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The class with the highest probability, for each image."""
        return np.asarray(self.probabilities.argmax(axis=1))


@torch.inference_mode()
def answers(
    model: nn.Module, batches: Iterable[Batch], preprocess: Preprocess, *, device: torch.device, exact: bool = False
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Runs the model over all batches; probabilities float32 [N, C] and true classes int64 [N].

    Args:
        model: already on the device; left in evaluation mode.
        batches: images uint8 [B, 3, H, W] with their classes, in a fixed order.
        preprocess: for normalising.
        device: where to compute.
        exact: in float32 also where training uses bfloat16, as the model server computes.
    """
    model.eval()
    logits, labels = [], []
    for images, classes in batches:
        with reduced_precision(device, enabled=not exact):
            answer = model(normalise(images.to(device, non_blocking=True), preprocess))
        logits.append(answer.float().cpu())
        labels.append(classes)
    if not labels:
        return np.empty((0, 0), np.float32), np.empty(0, np.int64)
    return torch.cat(logits).softmax(dim=1).numpy(), torch.cat(labels).numpy()


def reduced_precision(device: torch.device, *, enabled: bool = True) -> torch.autocast:
    """bfloat16 where a GPU does it well; full precision elsewhere."""
    suits = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled and suits)


def score(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, float]:
    """loss (cross-entropy), top1, top5, and precision, recall and F1 as the mean over the classes present."""
    classes = range(probabilities.shape[1])
    predicted = probabilities.argmax(axis=1)
    precision, recall, f1, _ = figures.precision_recall_fscore_support(
        labels, predicted, labels=np.unique(labels), average="macro", zero_division=0.0
    )
    top5 = 1.0
    if len(classes) > TOP_K:
        top5 = figures.top_k_accuracy_score(labels, probabilities, k=TOP_K, labels=classes)
    return {
        "loss": float(figures.log_loss(labels, probabilities, labels=classes)),
        "top1": float(figures.accuracy_score(labels, predicted)),
        "top5": float(top5),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
    }


def report(evaluation: Evaluation, classes: tuple[str, ...]) -> dict[str, Any]:
    """The content of evaluation.json: overall, class by class, and the confusion matrix (rows are true classes)."""
    labels, predicted = evaluation.labels, evaluation.predicted
    indices = range(len(classes))
    columns = figures.precision_recall_fscore_support(labels, predicted, labels=indices, zero_division=0.0)
    by_class = [
        {"name": name, "precision": float(p), "recall": float(r), "f1": float(f), "images": int(n)}
        for name, p, r, f, n in zip(classes, *columns, strict=True)
    ]
    return {
        "images": len(labels),
        "metrics": dict(evaluation.metrics),
        "interval95": {"top1": list(interval95(evaluation.metrics["top1"], len(labels)))},
        "classes": by_class,
        "confusionMatrix": figures.confusion_matrix(labels, predicted, labels=indices).tolist(),
    }


def interval95(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share that was measured on `count` images."""
    z = NormalDist().inv_cdf(0.975)
    centre = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)
