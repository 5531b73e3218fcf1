"""Suspected labels at the end of a training: from scratch, from weights, and with a fault."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bloomery_trainer.engine import suspects
from bloomery_trainer.engine.head_training import TrainingFeatures

pytestmark = pytest.mark.feature("D16")

Train = Callable[..., Any]
TRAINING_IMAGES = 96
"""Of the digits; the other 24 validate."""


def labels_of(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    return dict(document["labels"])


@pytest.fixture(scope="module")
def base(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model from scratch, in its output folder."""
    folder = tmp_path_factory.mktemp("base")
    ended = train({"maxSteps": 4}, output={"uri": f"file://{folder}"})
    assert ended.code == 0, ended.message
    return folder


def test_training_from_scratch_examines_labels_and_says_so(base: Path) -> None:
    document = labels_of(base)

    assert (document["examined"], document["fromScratch"], document["fault"]) == (TRAINING_IMAGES, True, None)
    assert len((base / "suspects.jsonl").read_text(encoding="utf-8").splitlines()) == document["suspects"]
    assert "these suspects are weaker" in (base / "report.html").read_text(encoding="utf-8")


def test_head_training_reuses_its_features(
    train: Train, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compute_again(*_: object) -> TrainingFeatures:
        raise AssertionError("the features are there already")

    monkeypatch.setattr(suspects, "compute_training_features", compute_again)
    ended = train(
        {"trainable": "Head", "maxSteps": None, "augmentation": None},
        initialModel={"uri": f"file://{base}/model"},
        output={"uri": f"file://{tmp_path}"},
    )

    assert ended.code == 0, ended.message
    document = labels_of(tmp_path)
    assert (document["examined"], document["fromScratch"], document["fault"]) == (TRAINING_IMAGES, False, None)


def test_fine_tuning_examines_features_of_its_start_and_keeps_its_progress(
    train: Train, base: Path, tmp_path: Path
) -> None:
    ended = train({"maxSteps": 3}, initialModel={"uri": f"file://{base}/model"}, output={"uri": f"file://{tmp_path}"})

    assert ended.code == 0, ended.message
    assert labels_of(tmp_path)["examined"] == TRAINING_IMAGES
    progress = ended.message["progress"]
    assert (progress["step"], progress["totalSteps"]) == (3, 3)


def test_fault_is_reported_and_fails_no_training(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("no convergence")

    monkeypatch.setattr(suspects, "out_of_fold_probabilities", fail)
    ended = train(output={"uri": f"file://{tmp_path}"})

    assert ended.code == 0, ended.message
    assert labels_of(tmp_path)["fault"] == "ValueError: no convergence"
    assert "could not be examined: ValueError: no convergence" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "the labels could not be examined" in (tmp_path / "train.log").read_text(encoding="utf-8")
    assert not (tmp_path / "suspects.jsonl").exists()
