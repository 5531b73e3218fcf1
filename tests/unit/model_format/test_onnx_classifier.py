"""Image classifiers are recognised by their inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from bloomery_model.onnx_classifier import (
    DEFAULT_SIDE,
    ClassifierError,
    as_rows,
    image_side,
    require_classifier,
    require_labels,
)


@dataclass
class Info:
    shape: list[Any] = field(default_factory=lambda: ["N", 3, 32, 32])
    type: str = "tensor(float)"


@pytest.mark.parametrize("shape", [["N", 3, 32, 32], [1, 3, 32, 32], [None, 3, "height", "width"]])
def test_batch_of_square_images_is_taken(shape: list[Any]) -> None:
    require_classifier([Info(shape)], [Info()], side=32)


@pytest.mark.parametrize(
    ("inputs", "outputs", "words"),
    [
        ([Info(), Info()], [Info()], "2 inputs and 1 outputs"),
        ([Info()], [Info(), Info()], "1 inputs and 2 outputs"),
        ([Info(["N", 32, 32, 3])], [Info()], r"\[N, 3, 32, 32\]"),
        ([Info([2, 3, 32, 32])], [Info()], r"\[N, 3, 32, 32\]"),
        ([Info(["N", 3])], [Info()], r"\[N, 3, 32, 32\]"),
        ([Info(type="tensor(uint8)")], [Info()], "uint8"),
    ],
    ids=["inputs", "outputs", "channels last", "batch of two", "no image", "type"],
)
def test_other_models_are_refused(inputs: list[Info], outputs: list[Info], words: str) -> None:
    with pytest.raises(ClassifierError, match=words) as refused:
        require_classifier(inputs, outputs, side=32)
    assert refused.value.reason == "NotAClassifier"


def test_side_is_that_of_the_input_or_the_default() -> None:
    assert image_side([Info([1, 3, 48, 48])]) == 48
    assert image_side([Info([1, 3, "height", "width"])]) == DEFAULT_SIDE


def test_each_class_needs_a_score() -> None:
    pooled = as_rows(np.zeros((3, 2, 1, 1), np.float32))
    require_labels(pooled, ["red", "green"])
    with pytest.raises(ClassifierError, match=r"\[3, 2\] for 3 images, but labels.txt names 1") as refused:
        require_labels(pooled, ["red"])
    assert refused.value.reason == "LabelsMismatch"
    with pytest.raises(ClassifierError):
        require_labels(np.zeros((3, 2, 2, 2), np.float32), ["red", "green"])
