"""The content of evaluation.json: all figures of a report, in plain values."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics as figures

from bloomery_trainer.data.dataset import LocalDataset
from bloomery_trainer.engine.evaluation import Evaluation, class_aucs, full_score, interval95
from bloomery_trainer.reports.advice import advice
from bloomery_trainer.reports.metadata import ReportMetadata
from bloomery_trainer.reports.suspects import suspects_document
from bloomery_trainer.reports.verdict import verdict

AVERAGING = (
    "precision, recall, f1 and auc are means over the classes that have images, each class counting the same (macro); "
    "those that begin with weighted count each class by its images. auc is each class against all others."
)

_MATRIX = 200
"""Up to so many classes the confusion matrix is predicted; it grows with their square."""

_PAIRS = 1000


def evaluation_document(metadata: ReportMetadata) -> dict[str, Any]:
    """Return all figures: of the images that the model is judged by, and beside them those of each split."""
    judged, dataset = metadata.judged, metadata.dataset
    aucs = class_aucs(judged.probabilities, judged.labels)
    splits = {
        name: _summary(evaluation, aucs if evaluation is judged else None)
        for name, evaluation in metadata.evaluations.items()
    }
    matrix = figures.confusion_matrix(judged.labels, judged.predicted, labels=range(len(dataset.classes)))
    document = {
        "title": metadata.title,
        "preset": metadata.preset,
        "metric": metadata.metric,
        "bestEpoch": metadata.best_epoch,
        "datasets": [
            {"name": part.name, "version": part.version, "classes": list(part.classes)} for part in dataset.parts
        ],
        "initialModel": None if metadata.start is None else dict(metadata.start),
        "lastEpoch": None if metadata.last_epoch is None else dict(metadata.last_epoch),
        "length": metadata.length,
        "dataType": metadata.data_type,
        "balance": metadata.balance,
        "split": metadata.split,
        **splits[metadata.split],
        "averaging": AVERAGING,
        "classes": _classes(judged, dataset, aucs),
        "confusionMatrix": matrix.tolist() if len(matrix) <= _MATRIX else None,
        "confusions": _confusions(matrix, dataset.classes),
        "validation": splits["validation"],
        "test": splits.get("test"),
        "trainingSet": _training_set(dataset),
        "calibration": None if metadata.calibration is None else metadata.calibration.document(),
        "thresholds": metadata.thresholds,
        "notes": list(metadata.notes),
        "stillImproving": metadata.still_improving,
        "labels": suspects_document(metadata.suspects),
    }
    return {**document, "verdict": verdict(document), "advice": advice(document)}


def _summary(evaluation: Evaluation, aucs: list[float | None] | None) -> dict[str, Any]:
    count = len(evaluation.labels)
    return {
        "images": count,
        "metrics": full_score(evaluation, aucs),
        "interval95": {"top1": list(interval95(evaluation.metrics["top1"], count))},
    }


def _classes(judged: Evaluation, dataset: LocalDataset, aucs: list[float | None]) -> list[dict[str, Any]]:
    indices = range(len(dataset.classes))
    columns = figures.precision_recall_fscore_support(
        judged.labels, judged.predicted, labels=indices, zero_division=0.0
    )
    answered = np.bincount(judged.predicted, minlength=len(indices))
    trained = np.bincount(dataset.splits["train"].labels, minlength=len(indices)) if "train" in dataset.splits else None
    return [
        {
            "name": dataset.classes[number],
            "images": int(images),
            "answers": int(answered[number]),
            "trainImages": None if trained is None else int(trained[number]),
            # Without an image of it, nothing is known of a class.
            "precision": float(precision) if images or answered[number] else None,
            "recall": float(recall) if images else None,
            "f1": float(f1) if images else None,
            "auc": aucs[number],
        }
        for number, precision, recall, f1, images in zip(indices, *columns, strict=True)
    ]


def _confusions(matrix: NDArray[np.int64], classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """List the confused pairs of classes, the most frequent first."""
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_PAIRS]
    pairs = [(int(true), int(predicted)) for true, predicted in zip(*np.unravel_index(order, wrong.shape), strict=True)]
    return [
        {
            "label": classes[true],
            "predicted": classes[predicted],
            "images": int(wrong[true, predicted]),
            "share": float(wrong[true, predicted] / matrix[true].sum()),
        }
        for true, predicted in pairs
        if wrong[true, predicted]
    ]


def _training_set(dataset: LocalDataset) -> list[dict[str, Any]]:
    """Return images by class and the dataset they are from, for each split.

    A class that a dataset has not is left out.
    """
    counts = dataset.counts()
    return [
        {"class": name, "dataset": part.name, **counts[part.name][name]}
        for name in dataset.classes
        for part in dataset.parts
        if any(counts[part.name][name].values())
    ]
