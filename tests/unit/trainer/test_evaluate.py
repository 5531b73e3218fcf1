"""The figures of an evaluation, against the same figures worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from bloomery_trainer.train.evaluate import Evaluation, interval95, report, score
from bloomery_trainer.train.report import confusion_page


def answers(count: int, classes: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    random = np.random.default_rng(7)
    logits = random.normal(size=(count, classes))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return probabilities.astype(np.float32), random.integers(0, classes, count)


def test_the_figures_are_what_their_definitions_say() -> None:
    probabilities, labels = answers(200, 8)
    predicted = probabilities.argmax(axis=1)
    ranks = (probabilities > probabilities[np.arange(200), labels][:, None]).sum(axis=1)
    precisions, recalls = [], []
    for name in range(8):
        hits = np.sum((predicted == name) & (labels == name))
        precisions.append(hits / max(1, np.sum(predicted == name)))
        recalls.append(hits / np.sum(labels == name))
    f1s = [2 * p * r / (p + r) if p + r else 0.0 for p, r in zip(precisions, recalls, strict=True)]

    figures = score(probabilities, labels)
    assert {name: figures[name] for name in ("loss", "top1", "top5", "precision", "recall", "f1")} == pytest.approx(
        {
            "loss": float(-np.log(probabilities[np.arange(200), labels]).mean()),
            "top1": float(np.mean(ranks == 0)),
            "top5": float(np.mean(ranks < 5)),
            "precision": float(np.mean(precisions)),
            "recall": float(np.mean(recalls)),
            "f1": float(np.mean(f1s)),
        },
        rel=1e-5,
    )


def test_of_five_classes_the_right_one_is_always_among_five() -> None:
    assert score(*answers(20, 5))["top5"] == 1.0


def test_classes_without_validation_images_do_not_pull_the_means_down() -> None:
    probabilities = np.eye(4, dtype=np.float32)[[0, 1, 1]]

    assert score(probabilities, np.array([0, 1, 1]))["recall"] == 1.0


def test_two_classes_are_scored_too() -> None:
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3]], dtype=np.float32)
    figures = score(probabilities, np.array([0, 1, 1]))

    assert figures["top1"] == pytest.approx(2 / 3)
    assert figures["loss"] == pytest.approx(-np.log([0.9, 0.6, 0.3]).mean(), rel=1e-5)


def test_the_report_goes_class_by_class() -> None:
    probabilities = np.eye(2, dtype=np.float32)[[0, 0, 1]]
    labels = np.array([0, 1, 1])
    document = report(Evaluation(probabilities, labels, score(probabilities, labels)), ("a", "b"))

    assert document["confusionMatrix"] == [[1, 0], [1, 1]]
    assert document["classes"][1] == {
        "name": "b", "precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "images": 2,
    }  # fmt: skip


def test_the_interval_is_wilsons() -> None:
    # The textbook case: 81 of 263.
    assert interval95(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert interval95(1.0, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)


def test_class_names_cannot_break_the_page() -> None:
    page = confusion_page([[3, 1], [0, 2]], ("<script>", "美食"))

    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "美食" in page
