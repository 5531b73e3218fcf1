"""Recognises an image classifier by the inputs and outputs of its ONNX session; needs no ONNX Runtime itself."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float32]

DEFAULT_SIDE = 224
"""Pixels, for a model that takes images of any size."""

QUANTIZED_OPERATORS = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger", "MatMulInteger")
"""Operators of models that compute in int8."""
_OPERATOR_TAG = 0x22
"""The byte before the length and the name of a node's operator: field 4 of NodeProto in ONNX's protobuf."""


class TensorInfo(Protocol):
    """An input or output of a session, as ONNX Runtime describes it; sizes that vary are no integers."""

    @property
    def shape(self) -> list[Any]:
        """Its dimensions."""

    @property
    def type(self) -> str:
        """Its type, such as ``tensor(float)``."""


class ClassifierError(ValueError):
    """A model that is no image classifier; ``reason`` is CamelCase, the message a sentence without its full stop."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def image_side(inputs: Sequence[TensorInfo]) -> int:
    """Return the side of the images that a model takes, in pixels."""
    shape = inputs[0].shape
    return shape[2] if len(shape) == 4 and isinstance(shape[2], int) else DEFAULT_SIDE


def is_quantized(path: Path) -> bool:
    """Return whether an ONNX file computes in int8; needs no ONNX library."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return any(content.find(bytes((_OPERATOR_TAG, len(name))) + name.encode()) >= 0 for name in QUANTIZED_OPERATORS)


def require_classifier(inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo], *, side: int) -> None:
    """Check that a model takes a batch of square images and has one output.

    Raises:
        ClassifierError: it does not.
    """
    if len(inputs) != 1 or len(outputs) != 1:
        message = f"the model has {len(inputs)} inputs and {len(outputs)} outputs; a classifier has one of each"
        raise ClassifierError("NotAClassifier", message)
    shape, element_type = inputs[0].shape, inputs[0].type
    expected = (1, 3, side, side)
    fits = len(shape) == 4 and all(not isinstance(n, int) or n == e for n, e in zip(shape, expected, strict=True))
    if element_type != "tensor(float)" or not fits:
        raise ClassifierError(
            "NotAClassifier",
            f"the model takes {element_type} {shape}; it must take tensor(float) [N, 3, {side}, {side}]: images as "
            "batch, channel, row, column",
        )


def as_rows(output: Scores) -> Scores:
    """Return a model's output as [N, classes]; one that ends in a pooling keeps two axes more, of size 1."""
    return output.reshape(output.shape[:2]) if output.shape[2:] == (1, 1) else output


def require_labels(output: Scores, labels: Sequence[str]) -> None:
    """Check that a model gives each image a score for every class.

    Raises:
        ClassifierError: it does not.
    """
    if output.ndim != 2 or output.shape[1] != len(labels):
        message = f"the model's output is {list(output.shape)} for {len(output)} images, but labels.txt names "
        raise ClassifierError("LabelsMismatch", f"{message}{len(labels)} classes")
