"""The model: an ONNX Runtime session on the GPU or the processors, which computes batches of tensors."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort

from bloomery_model import Preprocess, PreprocessError, Tensor
from bloomery_model.folder import MODEL, PREPROCESS, read_labels
from bloomery_model.onnx_classifier import (
    ClassifierError,
    Scores,
    as_rows,
    image_side,
    require_classifier,
    require_labels,
)
from bloomery_model.statistics import Statistics, energies_of, read_statistics
from bloomery_serving.errors import ModelError

logger = logging.getLogger(__name__)

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
"""ONNX Runtime's names of its providers."""

GPU_BATCH = 32
CPU_BATCH = 2
"""Images: a larger batch gains a processor nothing more, and its first image waits for the last."""
ASSUMED_PREPROCESSING = (
    "the model folder has no preprocess.json: ImageNet's preprocessing is assumed (the shorter side is resized to %d "
    "pixels, the centre of %d pixels is cut out, and ImageNet's mean and standard deviation are applied)"
)
MAX_BATCH_COST = 0.95
"""Time for an image in a batch, as a share of its time alone, beyond which batches are not worth the wait."""
MEASURE_SECONDS = 0.1
"""Shortest time of that measurement: on a busy machine, the best of a few runs of a small model is not reliable."""


class ScoredImage(NamedTuple):
    """The model's result for one image.

    Attributes:
        scores: the probability of each class, float32 [classes].
        brightness: the mean of its normalised pixels.
        energy: of its logits: how familiar the image is. None for a network that gives probabilities.
    """

    scores: Scores
    brightness: float
    energy: float | None = None


@dataclass(frozen=True)
class Model:
    """A loaded classifier; ``predict`` may be called from many threads at once."""

    session: ort.InferenceSession
    labels: tuple[str, ...]
    preprocess: Preprocess
    digest: str
    assumes_imagenet: bool = False
    """Whether the folder has no preprocess.json, so that ImageNet's preprocessing is assumed."""
    gives_probabilities: bool = False
    """Whether the network ends in a softmax."""
    best_batch: int = 1
    """Number of waiting images that are computed together."""
    statistics: Statistics = field(default_factory=Statistics)
    """Statistics of its answers on held-out images, as far as its folder has them."""
    explanation: Path | None = None
    """File of the network that shows where this one looked; None if the folder has none, or nobody asked for it."""

    @classmethod
    def load(cls, folder: Path, *, digest: str, threads: int, explanation: str | None = None) -> Model:
        """Load a model folder and run it once, so that the first user does not wait for memory and kernels.

        Args:
            folder: the local one.
            digest: of the model.
            threads: the number that one prediction may use.
            explanation: the name of the folder's network of explanations, which is not loaded yet.

        Raises:
            ModelError: the folder holds no classifier that can be run; says why.
        """
        try:
            session = _open_session(folder / MODEL, threads)
            labels = distinct(read_labels(folder))
            assumes_imagenet = not (folder / PREPROCESS).exists()
            preprocess = _read_preprocess(folder / PREPROCESS, default_side=image_side(session.get_inputs()))
            if assumes_imagenet:
                logger.warning(ASSUMED_PREPROCESSING, preprocess.resize, preprocess.crop)
            require_classifier(session.get_inputs(), session.get_outputs(), side=preprocess.crop)
            statistics = read_statistics(folder, classes=len(labels))
            model = cls(session, labels, preprocess, digest, assumes_imagenet, statistics=statistics)
            model = replace(model, gives_probabilities=model._warm_up())
        except ModelError:
            raise
        except ClassifierError as error:
            raise ModelError(error.reason, f"{str(error)[0].upper()}{str(error)[1:]}.") from error
        except Exception as error:  # ONNX Runtime's own exceptions have no common base
            raise ModelError("ModelNotLoaded", f"The model cannot be loaded: {str(error).splitlines()[0]}") from error
        path = None if explanation is None else folder / explanation
        return replace(model, best_batch=model._find_best_batch(), explanation=path)

    def predict(self, tensors: Sequence[Tensor]) -> list[ScoredImage]:
        """Return the scores of N tensors [3, crop, crop]."""
        outputs = self._run(np.stack(tensors))
        brightness = [float(tensor.mean()) for tensor in tensors]
        if self.gives_probabilities:
            return list(map(ScoredImage, outputs, brightness))
        return list(map(ScoredImage, softmax(outputs), brightness, energies_of(outputs).tolist()))

    def _warm_up(self) -> bool:
        """Run the model; return whether its outputs are probabilities already."""
        side = self.preprocess.crop
        # Three rows of logits do not all sum to 1 by chance.
        noise = np.random.default_rng(0).normal(size=(3, 3, side, side)).astype(np.float32)
        try:
            outputs = self._run(noise)
            # cuDNN prepares each size of a batch when that first comes: no user is to wait for it.
            for size in (1, GPU_BATCH) if self._on_gpu else ():
                self._run(self._black(size))
        except Exception as error:
            raise ModelError("ModelNotRunnable", f"The model cannot be run: {str(error).splitlines()[0]}") from error
        require_labels(outputs, self.labels)
        if not np.isfinite(softmax(outputs)).all():
            message = "The model gives NaN or an infinity for ordinary images: one of its weights is probably NaN."
            raise ModelError("ModelNotRunnable", f"{message} Train or export it again.")
        return bool((outputs >= 0).all() and np.allclose(outputs.sum(axis=1), 1, atol=1e-3))

    def _find_best_batch(self) -> int:
        """Measure whether images are computed faster together than one by one; return the size of a batch."""
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
        return CPU_BATCH if together < alone * MAX_BATCH_COST else 1

    def _run(self, batch: Tensor) -> Scores:
        name = self._input.name
        # A model that was exported for one image takes no more at a time.
        parts = np.split(batch, len(batch)) if self._input.shape[0] == 1 else [batch]
        outputs = [np.asarray(self.session.run(None, {name: part})[0], np.float32) for part in parts]
        return as_rows(np.concatenate(outputs))

    def _black(self, size: int) -> Tensor:
        return np.zeros((size, 3, self.preprocess.crop, self.preprocess.crop), np.float32)

    @property
    def _on_gpu(self) -> bool:
        return CUDA in self.session.get_providers()

    @property
    def _input(self) -> Any:
        return self.session.get_inputs()[0]


def distinct(labels: Sequence[str]) -> tuple[str, ...]:
    """Return the names of all classes; those that several classes share get the number of the class behind them.

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


def _open_session(path: Path, threads: int) -> ort.InferenceSession:
    """Open a session, on the GPU if this build supports one; log the providers."""
    providers: list[Any] = [CPU]
    wants_gpu = CUDA in ort.get_available_providers()
    if wants_gpu:
        # CUDA and cuDNN come as Python packages, in which the loader does not look by itself.
        ort.preload_dlls()
        # By default, every algorithm is measured for each new shape of a batch, which takes seconds.
        providers.insert(0, (CUDA, {"cudnn_conv_algo_search": "HEURISTIC"}))
    session = ort.InferenceSession(path, session_options(threads), providers=providers)
    used = session.get_providers()
    logger.info("the model is computed by %s", ", ".join(used))
    if wants_gpu and CUDA not in used:
        logger.warning(
            "This build computes on NVIDIA GPUs, but none can be used here, so the processor answers, more slowly; "
            "the lines of ONNX Runtime above say why."
        )
    return session


def session_options(threads: int) -> ort.SessionOptions:
    """Return the options of every session of this process."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Spinning threads take from their neighbours on shared cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _read_preprocess(path: Path, *, default_side: int) -> Preprocess:
    if not path.exists():
        return Preprocess.for_size(default_side)
    try:
        return Preprocess.read(path.read_bytes())
    except PreprocessError as error:
        raise ModelError("BadPreprocess", f"{path.name} is not as it should be: {error}.") from error
