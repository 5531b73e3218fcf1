"""The served model in int8: calibrated on training images, and kept only where it costs little and gains speed.

The weights in state.pt stay as they were trained; only model.onnx changes.
"""

from __future__ import annotations

import json
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from bloomery_model.folder import MODEL, WEIGHTS, format_digest
from bloomery_trainer.model_folder import file_digests
from bloomery_trainer.models.export import INPUT, OUTPUT
from bloomery_trainer.models.onnx_session import open_session
from bloomery_trainer.storage import Folder

Images = NDArray[np.float32]

DECISION = "quantization.json"
"""In the output folder: which form of the model was chosen."""

CALIBRATION_IMAGES = 128
"""Spread over the training images; more hardly moves the ranges."""

MOST_LOST = 0.01
"""Of the job's metric, on the images that the model is judged by."""

LEAST_SPEED_UP = 1.05
"""Less is within what a processor varies by from one minute to the next."""

_ROUNDS = 15
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class ModelVariantStats:
    """The model in one form: its value of the job's metric, and what one image takes on one thread of this machine."""

    value: float
    milliseconds: float


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """Both forms beside each other, and what follows from it.

    Attributes:
        metric: what the forms are compared by.
        split: the images that they were compared on.
        float32: the model as it was trained.
        int8: the same model quantized.
        calibration_images: how many training images set the ranges of the int8 form.
    """

    metric: str
    split: str
    float32: ModelVariantStats
    int8: ModelVariantStats
    calibration_images: int

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Self:
        """Read what ``document`` wrote; raise KeyError or TypeError where it is something else."""
        metric = str(document["metric"])
        forms = {
            name: ModelVariantStats(
                value=float(document[name][metric]), milliseconds=float(document[name]["milliseconds"])
            )
            for name in ("float32", "int8")
        }
        images = int(document["calibrationImages"])
        return cls(metric=metric, split=str(document["evaluatedOn"]), calibration_images=images, **forms)

    @property
    def speed_up(self) -> float:
        """The speed of int8 divided by that of float32."""
        return self.float32.milliseconds / self.int8.milliseconds

    @property
    def is_better(self) -> bool:
        """Whether the model is served as int8."""
        return self._accurate and self._faster

    @property
    def sentence(self) -> str:
        """The decision with its numbers, as a sentence."""
        value = f"{self.metric} is {self.int8.value:.4f} instead of {self.float32.value:.4f} on the {self.split} images"
        speed = f"an image takes {self.int8.milliseconds:.1f} ms instead of {self.float32.milliseconds:.1f} ms"
        if self.is_better:
            return (
                f"The model is served as int8, calibrated on {self.calibration_images} training images: {value}, and "
                f"{speed}, {self.speed_up:.2f} times as fast. This holds for processors; on a GPU, int8 is slower "
                "than float32."
            )
        why = [] if self._accurate else [f"{value}, more than {100 * MOST_LOST:g} point less"]
        why += [] if self._faster else [f"{speed}, which is not at least {LEAST_SPEED_UP:g} times as fast"]
        return f"The model is served as float32, though int8 was asked for: in int8, {'; and '.join(why)}."

    def document(self) -> dict[str, Any]:
        """Return the document for the result, the metadata and a later start."""
        forms = {"float32": self.float32, "int8": self.int8}
        return {
            "kept": self.is_better,
            "metric": self.metric,
            "evaluatedOn": self.split,
            **{name: {self.metric: form.value, "milliseconds": form.milliseconds} for name, form in forms.items()},
            "speedUp": round(self.speed_up, 3),
            "calibrationImages": self.calibration_images,
        }

    def metrics(self) -> dict[str, float]:
        """Return the metrics of the run."""
        forms = {"float32": self.float32, "int8": self.int8}
        metrics = {f"quantization/{name}_{self.metric}": form.value for name, form in forms.items()}
        metrics |= {f"quantization/{name}_milliseconds": form.milliseconds for name, form in forms.items()}
        return {**metrics, "quantization/speed_up": self.speed_up}

    @property
    def _accurate(self) -> bool:
        return self.float32.value - self.int8.value <= MOST_LOST + _ROUNDING

    @property
    def _faster(self) -> bool:
        return self.speed_up >= LEAST_SPEED_UP


def write_int8(source: Path, target: Path, images: Iterable[Images]) -> None:
    """Write a float32 model as int8, in QDQ form, which every ONNX Runtime reads.

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


@dataclass(frozen=True)
class Decision:
    """The form of the model that is served, and the temperature by which that file divides its logits."""

    quantization: Quantization
    temperature: float


def record(decision: Decision, output: Folder, folder: Path, *, uid: str) -> None:
    """Write the decision and the file that it is about to the output folder, where a later start takes them from."""
    output.upload(folder / MODEL, f"model/{MODEL}")
    document = {
        "uid": uid,
        **_digests(folder),
        "quantization": decision.quantization.document(),
        "temperature": decision.temperature,
    }
    output.write(DECISION, json.dumps(document, indent=1).encode())


def recorded(output: Folder, folder: Path, *, uid: str) -> Decision | None:
    """Take the decision of an earlier start about the same weights, and its file in place of the folder's.

    None, with the folder as it was, where there is no such decision or its file is gone.
    """
    content = output.read_if_there(DECISION)
    document = {} if content is None else json.loads(content)
    digests = _digests(folder)
    if document.get("uid") != uid or document[WEIGHTS] != digests[WEIGHTS]:
        return None
    earlier = folder / f"earlier-{MODEL}"
    try:
        digest = output.download(f"model/{MODEL}", earlier)
    except FileNotFoundError:
        earlier.unlink(missing_ok=True)
        return None
    if format_digest(digest) != document[MODEL]:
        earlier.unlink()
        return None
    earlier.replace(folder / MODEL)
    # A start of an earlier version recorded files without a temperature.
    return Decision(Quantization.read(document["quantization"]), float(document.get("temperature", 1.0)))


def _digests(folder: Path) -> dict[str, str]:
    digests = file_digests(folder)
    return {name: digests[name] for name in (WEIGHTS, MODEL)}


def milliseconds(*models: Path) -> tuple[float, ...]:
    """Measure the milliseconds for one image with each model in turn: alone, on one thread, as the server computes."""
    sessions = [open_session(model, threads=1) for model in models]
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
    return tuple(round(1000 * min(seconds[1:]), 3) for seconds in taken)


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # the library is untyped
    """Hands images to the calibration, one at a time."""

    def __init__(self, images: Iterable[Images]) -> None:
        self._images: Iterator[Images] = iter(images)

    def get_next(self) -> dict[str, Images] | None:
        """Return the next image by the input's name; None at the end."""
        image = next(self._images, None)
        return None if image is None else {INPUT: image}
