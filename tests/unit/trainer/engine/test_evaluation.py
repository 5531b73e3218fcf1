"""The figures of an evaluation, against the same figures worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bloomery_model import Preprocess
from bloomery_trainer.engine.evaluation import Evaluation, answers, class_aucs, full_score, interval95, score, top_k


def random_answers(count: int, classes: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    random = np.random.default_rng(7)
    logits = random.normal(size=(count, classes))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return probabilities.astype(np.float32), random.integers(0, classes, count)


def auc_by_pairs(scores: NDArray[np.float32], is_class: NDArray[np.bool_]) -> float:
    """The share of pairs (an image of the class, another image) in which the former scores higher; ties count half."""
    inside, outside = scores[is_class][:, None], scores[~is_class][None, :]
    return float(((inside > outside) + 0.5 * (inside == outside)).mean())


def kappa_by_hand(predicted: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> float:
    agreed = np.mean(predicted == labels)
    by_chance = sum(np.mean(predicted == name) * np.mean(labels == name) for name in range(classes))
    return float((agreed - by_chance) / (1 - by_chance))


@pytest.mark.feature("T10")
@pytest.mark.feature("T4")
def test_the_figures_are_what_their_definitions_say() -> None:
    probabilities, labels = random_answers(200, 8)
    predicted = probabilities.argmax(axis=1)
    ranks = (probabilities > probabilities[np.arange(200), labels][:, None]).sum(axis=1)
    precisions, recalls, counts = [], [], []
    for name in range(8):
        hits = np.sum((predicted == name) & (labels == name))
        precisions.append(hits / max(1, np.sum(predicted == name)))
        recalls.append(hits / np.sum(labels == name))
        counts.append(np.sum(labels == name))
    f1s = [2 * p * r / (p + r) if p + r else 0.0 for p, r in zip(precisions, recalls, strict=True)]

    assert full_score(Evaluation.of(probabilities, labels)) == pytest.approx(
        {
            "loss": float(-np.log(probabilities[np.arange(200), labels]).mean()),
            **{f"top{k}": float(np.mean(ranks < k)) for k in range(1, 6)},
            "precision": float(np.mean(precisions)),
            "recall": float(np.mean(recalls)),
            "balanced": float(np.mean(recalls)),
            "f1": float(np.mean(f1s)),
            "kappa": kappa_by_hand(predicted, labels, 8),
            "auc": float(np.mean([auc_by_pairs(probabilities[:, name], labels == name) for name in range(8)])),
            "weightedPrecision": float(np.average(precisions, weights=counts)),
            "weightedRecall": float(np.average(recalls, weights=counts)),
            "weightedF1": float(np.average(f1s, weights=counts)),
        },
        rel=1e-5,
    )


@pytest.mark.feature("T24")
def test_balanced_accuracy_is_the_mean_recall_of_the_classes_present() -> None:
    probabilities = np.eye(4, dtype=np.float32)[[0] * 8 + [1, 3]]
    figures = score(probabilities, np.array([0] * 8 + [1, 1]))

    assert figures["top1"] == pytest.approx(0.9)
    # 8 of 8 and 1 of 2; classes 2 and 3 have no images, though one of them was answered.
    assert figures["balanced"] == pytest.approx(0.75)


@pytest.mark.parametrize(("classes", "reported"), [(4, False), (5, False), (6, True)])
def test_top5_is_reported_only_for_more_than_five_classes(classes: int, reported: bool) -> None:
    probabilities, labels = random_answers(20, classes)

    assert ("top5" in score(probabilities, labels)) is reported
    assert ("top5" in full_score(Evaluation.of(probabilities, labels))) is reported


@pytest.mark.feature("T10")
def test_a_report_on_three_classes_has_no_top3() -> None:
    assert {name for name in full_score(Evaluation.of(*random_answers(20, 3))) if name.startswith("top")} == {
        "top1", "top2",
    }  # fmt: skip


def test_classes_without_validation_images_do_not_pull_the_means_down() -> None:
    probabilities = np.eye(4, dtype=np.float32)[[0, 1, 1]]
    figures = score(probabilities, np.array([0, 1, 1]))

    assert figures["recall"] == 1.0
    assert figures["auc"] == 1.0
    assert class_aucs(probabilities, np.array([0, 1, 1])) == [1.0, 1.0, None, None]


def test_images_of_one_class_leave_out_undefined_metrics() -> None:
    figures = full_score(Evaluation.of(np.eye(2, dtype=np.float32)[[0, 0]], np.array([0, 0])))

    assert figures["top1"] == 1.0
    assert not {"auc", "kappa"} & set(figures)


def test_two_classes_are_scored_too() -> None:
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3]], dtype=np.float32)
    figures = score(probabilities, np.array([0, 1, 1]))

    assert figures["top1"] == pytest.approx(2 / 3)
    assert figures["loss"] == pytest.approx(-np.log([0.9, 0.6, 0.3]).mean(), rel=1e-5)


def test_a_model_that_is_sure_and_wrong_has_a_finite_loss() -> None:
    assert np.isfinite(score(np.eye(2, dtype=np.float32)[[0, 1]], np.array([1, 1]))["loss"])


def test_slow_metrics_of_many_classes_wait_for_the_report() -> None:
    probabilities, labels = random_answers(3_000, 1000)
    figures = score(probabilities, labels)

    assert figures["top5"] == pytest.approx(top_k(probabilities, labels, 5))
    assert "auc" not in figures
    assert "auc" in full_score(Evaluation.of(probabilities, labels))


def test_answers_come_in_the_order_of_the_images() -> None:
    class Brightness(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            bright = images.mean(dim=(1, 2, 3))
            return torch.stack([bright, -bright], dim=1)

    batches = [
        (torch.full((2, 3, 8, 8), value, dtype=torch.uint8), torch.tensor([value, value])) for value in (0, 100, 200)
    ]
    probabilities, labels = answers(Brightness(), batches, Preprocess.for_size(8), device=torch.device("cpu"))

    assert labels.tolist() == [0, 0, 100, 100, 200, 200]
    assert np.all(np.diff(probabilities[::2, 0]) > 0)
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(6))


def test_a_process_without_images_answers_nothing() -> None:
    probabilities, labels = answers(
        torch.nn.Identity(), [], Preprocess.for_size(8), device=torch.device("cpu")
    )  # fmt: skip

    assert len(probabilities) == len(labels) == 0


def test_the_interval_is_wilsons() -> None:
    # The textbook case: 81 of 263.
    assert interval95(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert interval95(1.0, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
