"""The served model in int8: calibrated on training images, and kept only where it costs little and gains speed.

The weights in state.pt stay as they were trained; only model.onnx changes.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from bloomery_trainer.train.export import INPUT, OUTPUT

Images = NDArray[np.float32]

CALIBRATION_IMAGES = 128
"""Spread over the training images; more hardly moves the ranges."""

MOST_LOST = 0.01
"""Of top1, on the validation images."""

LEAST_SPEED_UP = 1.05
"""Less is within what a processor varies by from one minute to the next."""

_ROUNDS = 15
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class Form:
    """The model in one form: its share of right answers, and what one image takes on one thread of this machine."""

    top1: float
    milliseconds: float

    def document(self) -> dict[str, float]:
        """For the result and the metadata."""
        return {"top1": round(self.top1, 6), "milliseconds": round(self.milliseconds, 3)}


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """Both forms beside each other, and what follows from it."""

    float32: Form
    int8: Form
    calibration_images: int

    @property
    def speed_up(self) -> float:
        """How many times as many images int8 takes in the same time."""
        return self.float32.milliseconds / self.int8.milliseconds

    @property
    def kept(self) -> bool:
        """Whether the model is served as int8."""
        return self._accurate and self._faster

    @property
    def sentence(self) -> str:
        """What came of it, with the numbers."""
        top1 = f"top1 is {self.int8.top1:.4f} instead of {self.float32.top1:.4f} on the validation images"
        speed = f"an image takes {self.int8.milliseconds:.1f} ms instead of {self.float32.milliseconds:.1f} ms"
        if self.kept:
            return (
                f"The model is served as int8, calibrated on {self.calibration_images} training images: {top1}, and "
                f"{speed}, {self.speed_up:.2f} times as fast."
            )
        why = [] if self._accurate else [f"{top1}, more than {100 * MOST_LOST:g} point less"]
        why += [] if self._faster else [f"{speed}, which is not at least {LEAST_SPEED_UP:g} times as fast"]
        return f"The model is served as float32, though int8 was asked for: in int8, {'; and '.join(why)}."

    def document(self) -> dict[str, Any]:
        """For the result and the metadata."""
        return {
            "kept": self.kept,
            "float32": self.float32.document(),
            "int8": self.int8.document(),
            "speedUp": round(self.speed_up, 3),
            "calibrationImages": self.calibration_images,
        }

    def metrics(self) -> dict[str, float]:
        """For the run's record."""
        forms = {"float32": self.float32, "int8": self.int8}
        found = {f"quantization/{name}_top1": form.top1 for name, form in forms.items()}
        found |= {f"quantization/{name}_milliseconds": form.milliseconds for name, form in forms.items()}
        return {**found, "quantization/speed_up": self.speed_up}

    @property
    def _accurate(self) -> bool:
        return self.float32.top1 - self.int8.top1 <= MOST_LOST + _ROUNDING

    @property
    def _faster(self) -> bool:
        return self.speed_up >= LEAST_SPEED_UP


def write_int8(source: Path, target: Path, images: Iterable[Images]) -> None:
    """Writes a float32 model as int8, in QDQ form, which every ONNX Runtime reads.

    Args:
        source: the ONNX file.
        target: a file that is not there yet.
        images: normalised, float32 [1, 3, H, W] each: what to calibrate on.
    """
    with tempfile.TemporaryDirectory(prefix="bloomery-int8-") as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared = Path(scratch) / "prepared.onnx"
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            target,
            _Reader(images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            # The pair for which ONNX Runtime has fast kernels on x86: with signed activations it takes twice as long.
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            # Weights of 7 bits: processors without VNNI add two products in 16 bits, and would answer otherwise.
            reduce_range=True,
        )


def milliseconds(*models: Path) -> tuple[float, ...]:
    """What an image takes with each model, by turns: alone, on one thread, as the model server computes."""
    sessions = [_session(model) for model in models]
    side = sessions[0].get_inputs()[0].shape[2]
    image = np.random.default_rng(0).normal(size=(1, 3, side, side)).astype(np.float32)
    taken: list[list[float]] = [[] for _ in sessions]
    # The first time, kernels are chosen and memory is taken.
    for _ in range(_ROUNDS + 1):
        for session, seconds in zip(sessions, taken, strict=True):
            began = time.perf_counter()
            session.run([OUTPUT], {INPUT: image})
            seconds.append(time.perf_counter() - began)
    # The least is what it takes; all else is what others on this machine took.
    return tuple(1000 * min(seconds[1:]) for seconds in taken)


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # the library is untyped
    """Hands images to the calibration, one at a time."""

    def __init__(self, images: Iterable[Images]) -> None:
        self._images: Iterator[Images] = iter(images)

    def get_next(self) -> dict[str, Images] | None:
        """The next image by the input's name; None at the end."""
        image = next(self._images, None)
        return None if image is None else {INPUT: image}


def _session(model: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
