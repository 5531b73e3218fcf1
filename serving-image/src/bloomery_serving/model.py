"""The model: load, predict, metadata, ready."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from bloomery_serving.errors import ModelError
from bloomery_serving.images import Preprocess, Tensor

Scores = NDArray[np.float32]


DEFAULT_SIDE = 224
"""Pixels, of a model that takes images of any size."""

GPU_BATCH = 32
CPU_BATCH = 2
"""A larger one gains a processor nothing more, and the first of it waits for the last."""
WORTH_WHILE = 0.95
"""Share of the time that an image takes alone, beyond which it had better not wait for another."""
MEASURE_SECONDS = 0.1
"""For how long that is measured at least: on a busy machine the best of a few runs of a small model says little."""


@dataclass(frozen=True)
class Model:
    """A loaded classifier; ``predict`` may be called from many threads at once."""

    session: ort.InferenceSession
    labels: tuple[str, ...]
    preprocess: Preprocess
    digest: str
    gives_probabilities: bool = False
    """Whether the network ends in a softmax of its own."""
    best_batch: int = 1
    """How many images that wait are worth to be computed together."""

    @classmethod
    def load(cls, folder: Path, *, digest: str, threads: int) -> Model:
        """Load a model folder and run it once, so that the first user does not wait for memory and kernels.

        Args:
            threads: how many one prediction may use.

        Raises:
            ModelError: the folder holds no classifier that can be run; says why.
        """
        try:
            session = ort.InferenceSession(folder / "model.onnx", _options(threads), providers=_providers())
            # Not splitlines(): a class name may hold a character that it takes for the end of a line.
            labels = tuple((folder / "labels.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n"))
            said = folder / "preprocess.json"
            preprocess = Preprocess.read(said) if said.exists() else Preprocess.for_side(_side(session))
        except ModelError:
            raise
        except Exception as error:  # ONNX Runtime's own exceptions have no common base
            raise ModelError("ModelNotLoaded", f"The model can not be loaded: {str(error).splitlines()[0]}") from error
        _require_classifier(session, preprocess.crop)
        model = cls(session, labels, preprocess, digest)
        model = replace(model, gives_probabilities=model._warm_up())
        return replace(model, best_batch=model._find_best_batch())

    def predict(self, tensors: Sequence[Tensor]) -> Scores:
        """Return the probability of each class, float32 [N, classes], of N tensors [3, crop, crop]."""
        outputs = self._run(np.stack(tensors))
        return outputs if self.gives_probabilities else softmax(outputs)

    @property
    def metadata(self) -> dict[str, Any]:
        """What it takes and gives."""
        return {
            "classes": len(self.labels),
            "input": [-1, 3, self.preprocess.crop, self.preprocess.crop],
            "providers": self.session.get_providers(),
        }

    def _warm_up(self) -> bool:
        """Run the model; return whether what it gives are probabilities already."""
        side = self.preprocess.crop
        # No two rows of logits sum to 1 by chance, whatever they are of.
        noise = np.random.default_rng(0).normal(size=(3, 3, side, side)).astype(np.float32)
        try:
            outputs = self._run(noise)
        except Exception as error:
            raise ModelError("ModelNotRunnable", f"The model can not be run: {str(error).splitlines()[0]}") from error
        if outputs.ndim != 2 or outputs.shape[1] != len(self.labels):
            message = (
                f"The model's output is {list(outputs.shape)} for 3 images, but labels.txt names {len(self.labels)}."
            )
            raise ModelError("LabelsMismatch", message)
        return bool((outputs >= 0).all() and np.allclose(outputs.sum(axis=1), 1, atol=1e-3))

    def _find_best_batch(self) -> int:
        """Measure whether images are computed faster together than one by one; return how many."""
        if self._input.shape[0] == 1:
            return 1
        if "CUDAExecutionProvider" in self.session.get_providers():
            return GPU_BATCH
        shape = (3, self.preprocess.crop, self.preprocess.crop)
        seconds = {size: [] for size in (1, CPU_BATCH)}  # type: dict[int, list[float]]
        end = time.perf_counter() + MEASURE_SECONDS
        while len(seconds[1]) < 3 or time.perf_counter() < end:
            for size, measured in seconds.items():
                began = time.perf_counter()
                self._run(np.zeros((size, *shape), np.float32))
                measured.append((time.perf_counter() - began) / size)
        alone, together = (min(measured) for measured in seconds.values())
        return CPU_BATCH if together < alone * WORTH_WHILE else 1

    def _run(self, batch: Tensor) -> Scores:
        name = self._input.name
        # A model that was exported for one image takes no more at a time.
        parts = np.split(batch, len(batch)) if self._input.shape[0] == 1 else [batch]
        return np.concatenate([np.asarray(self.session.run(None, {name: part})[0], np.float32) for part in parts])

    @property
    def _input(self) -> Any:
        return self.session.get_inputs()[0]


def softmax(logits: Scores) -> Scores:
    """Return probabilities over the last axis, without overflow."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: Scores = shifted / shifted.sum(axis=-1, keepdims=True)
    return probabilities


def _options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Spinning threads take from their neighbours on shared cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _side(session: ort.InferenceSession) -> int:
    """Return the size of the images that a model takes, in pixels."""
    shape = session.get_inputs()[0].shape
    return shape[2] if len(shape) == 4 and isinstance(shape[2], int) else DEFAULT_SIDE


def _require_classifier(session: ort.InferenceSession, side: int) -> None:
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        message = f"The model has {len(inputs)} inputs and {len(outputs)} outputs; a classifier has one of each."
        raise ModelError("NotAClassifier", message)
    shape, kind = inputs[0].shape, inputs[0].type
    wanted = (1, 3, side, side)
    fits = len(shape) == 4 and all(not isinstance(n, int) or n == w for n, w in zip(shape, wanted, strict=True))
    if kind != "tensor(float)" or not fits:
        message = (
            f"The model takes {kind} {shape}; it must take tensor(float) [N, 3, {side}, {side}]: images as batch, "
            "channel, row, column."
        )
        raise ModelError("NotAClassifier", message)


def _providers() -> list[str]:
    """Return the GPU's provider where the pod has one, and the CPU's."""
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    return [provider for provider in wanted if provider in ort.get_available_providers()]
