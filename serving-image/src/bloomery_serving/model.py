"""The model: loaded by ONNX Runtime on the GPU or the processors that there are, and run on batches of tensors."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from bloomery_model import Preprocess, PreprocessError, Tensor
from bloomery_serving.errors import ModelError

logger = logging.getLogger(__name__)

Scores = NDArray[np.float32]

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
"""ONNX Runtime's names of what computes."""

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
            session = _open(folder / "model.onnx", threads)
            # Not splitlines(): a class name may hold a character that it takes for the end of a line.
            labels = distinct((folder / "labels.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n"))
            said = folder / "preprocess.json"
            preprocess = Preprocess.read(said.read_bytes()) if said.exists() else Preprocess.for_size(_side(session))
        except PreprocessError as error:
            message = f"{said.name} is not as it should be: {error}."
            raise ModelError("BadPreprocess", message) from error
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

    def _warm_up(self) -> bool:
        """Run the model; return whether what it gives are probabilities already."""
        side = self.preprocess.crop
        # No two rows of logits sum to 1 by chance, whatever they are of.
        noise = np.random.default_rng(0).normal(size=(3, 3, side, side)).astype(np.float32)
        try:
            outputs = self._run(noise)
            # cuDNN sets itself up for each size of a batch when that first comes: no user is to wait for it.
            for size in (1, GPU_BATCH) if self._on_gpu else ():
                self._run(self._black(size))
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
        if self._on_gpu:
            return GPU_BATCH
        seconds = {size: [] for size in (1, CPU_BATCH)}  # type: dict[int, list[float]]
        end = time.perf_counter() + MEASURE_SECONDS
        while len(seconds[1]) < 3 or time.perf_counter() < end:
            for size, measured in seconds.items():
                began = time.perf_counter()
                self._run(self._black(size))
                measured.append((time.perf_counter() - began) / size)
        alone, together = (min(measured) for measured in seconds.values())
        return CPU_BATCH if together < alone * WORTH_WHILE else 1

    def _run(self, batch: Tensor) -> Scores:
        name = self._input.name
        # A model that was exported for one image takes no more at a time.
        parts = np.split(batch, len(batch)) if self._input.shape[0] == 1 else [batch]
        scores = np.concatenate([np.asarray(self.session.run(None, {name: part})[0], np.float32) for part in parts])
        # What ends in a pooling keeps its two axes: [N, classes, 1, 1].
        return scores.reshape(scores.shape[:2]) if scores.shape[2:] == (1, 1) else scores

    def _black(self, size: int) -> Tensor:
        return np.zeros((size, 3, self.preprocess.crop, self.preprocess.crop), np.float32)

    @property
    def _on_gpu(self) -> bool:
        return CUDA in self.session.get_providers()

    @property
    def _input(self) -> Any:
        return self.session.get_inputs()[0]


def distinct(labels: Sequence[str]) -> tuple[str, ...]:
    """Return the names of all classes, with the number of the class behind each that is not the only one.

    ImageNet has a crane that flies and one that lifts: scores by name would be those of one of them.
    """
    counts = Counter(labels)
    if len(counts) == len(labels):
        return tuple(labels)
    # Again, as such a name may be that of another class.
    return distinct([f"{name} ({number})" if counts[name] > 1 else name for number, name in enumerate(labels)])


def softmax(logits: Scores) -> Scores:
    """Return probabilities over the last axis, without overflow."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: Scores = shifted / shifted.sum(axis=-1, keepdims=True)
    return probabilities


def _open(path: Path, threads: int) -> ort.InferenceSession:
    """Open a session, on the GPU where this build knows one, and say in the log what computes."""
    providers: list[Any] = [CPU]
    wants_gpu = CUDA in ort.get_available_providers()
    if wants_gpu:
        # CUDA and cuDNN come as Python packages, where no loader looks by itself.
        ort.preload_dlls()
        # By default each new shape of a batch has every algorithm measured, which takes seconds.
        providers.insert(0, (CUDA, {"cudnn_conv_algo_search": "HEURISTIC"}))
    session = ort.InferenceSession(path, _options(threads), providers=providers)
    used = session.get_providers()
    logger.info("the model is computed by %s", ", ".join(used))
    if wants_gpu and CUDA not in used:
        logger.warning(
            "This build computes on NVIDIA GPUs, but none can be used here, so the processor answers, more slowly; "
            "what ONNX Runtime wrote above says why."
        )
    return session


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
