"""The model: preprocessing, classes and an engine that computes batches of tensors."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bloomery_model import Preprocess, PreprocessError, Tensor
from bloomery_model.folder import MODEL, PREPROCESS, read_labels
from bloomery_model.onnx_classifier import (
    ClassifierError,
    Scores,
    image_side,
    require_classifier,
    require_labels,
)
from bloomery_model.statistics import Statistics, energies_of, read_statistics
from bloomery_serving.engines import timing
from bloomery_serving.engines.base import ActiveEngine, EngineReport, EngineSlot
from bloomery_serving.engines.onnx_runtime import OnnxRuntimeEngine
from bloomery_serving.errors import ModelError

logger = logging.getLogger(__name__)

GPU_BATCH = 32
CPU_BATCH = 2
"""Images: a larger batch gains a processor nothing more, and its first image waits for the last."""
ASSUMED_PREPROCESSING = (
    "the model folder has no preprocess.json: ImageNet's preprocessing is assumed (the shorter side is resized to %d "
    "pixels, the centre of %d pixels is cut out, and ImageNet's mean and standard deviation are applied)"
)
_MEASURE_SECONDS = 0.1
_MEASURE_ROUNDS = 3
FIRST_ENGINE = "Every server begins with ONNX Runtime."
"""Reason of the engine before another is chosen."""


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

    slot: EngineSlot
    labels: tuple[str, ...]
    preprocess: Preprocess
    digest: str
    assumes_imagenet: bool = False
    """Whether the folder has no preprocess.json, so that ImageNet's preprocessing is assumed."""
    gives_probabilities: bool = False
    """Whether the network ends in a softmax."""
    statistics: Statistics = field(default_factory=Statistics)
    """Statistics of its answers on held-out images, as far as its folder has them."""
    explanation: Path | None = None
    """File of the network that shows where this one looked; None if the folder has none, or nobody asked for it."""
    references: Path | None = None
    """File of the references that other engines are compared with; None if there is none."""

    @classmethod
    def load(
        cls, folder: Path, *, digest: str, threads: int, explanation: str | None = None, references: str | None = None
    ) -> Model:
        """Load a model folder and run it once, so that the first user does not wait for memory and kernels.

        Args:
            folder: the local one.
            digest: of the model.
            threads: the number that one prediction may use.
            explanation: the name of the folder's network of explanations, which is not loaded yet.
            references: the name of the folder's references, which are not loaded yet.

        Raises:
            ModelError: the folder holds no classifier that can be run; says why.
        """
        try:
            engine = OnnxRuntimeEngine.open(folder / MODEL, threads=threads)
            inputs = engine.session.get_inputs()
            labels = distinct(read_labels(folder))
            assumes_imagenet = not (folder / PREPROCESS).exists()
            preprocess = _read_preprocess(folder / PREPROCESS, default_side=image_side(inputs))
            if assumes_imagenet:
                logger.warning(ASSUMED_PREPROCESSING, preprocess.resize, preprocess.crop)
            require_classifier(inputs, engine.session.get_outputs(), side=preprocess.crop)
            statistics = read_statistics(folder, classes=len(labels))
            slot = EngineSlot(ActiveEngine(engine, 1, EngineReport(engine.form, FIRST_ENGINE)))
            model = cls(slot, labels, preprocess, digest, assumes_imagenet, statistics=statistics)
            model = replace(model, gives_probabilities=model._warm_up(engine))
        except ModelError:
            raise
        except ClassifierError as error:
            raise ModelError(error.reason, f"{str(error)[0].upper()}{str(error)[1:]}.") from error
        except Exception as error:  # ONNX Runtime's own exceptions have no common base
            raise ModelError("ModelNotLoaded", f"The model cannot be loaded: {str(error).splitlines()[0]}") from error
        slot.replace(replace(slot.active, best_batch=_find_best_batch(engine, side=preprocess.crop)))
        return replace(
            model,
            explanation=None if explanation is None else folder / explanation,
            references=None if references is None else folder / references,
        )

    @property
    def best_batch(self) -> int:
        """Number of waiting images that are computed together."""
        return self.slot.active.best_batch

    @property
    def engine(self) -> EngineReport:
        """The engine that computes at present, and the reason."""
        return self.slot.active.report

    def predict(self, tensors: Sequence[Tensor]) -> list[ScoredImage]:
        """Return the scores of N tensors [3, crop, crop]."""
        # A batch of one image needs no copy.
        batch = tensors[0][None] if len(tensors) == 1 else np.stack(tensors)
        outputs = self.slot.active.engine.run(batch)
        brightness = [float(tensor.mean()) for tensor in tensors]
        if self.gives_probabilities:
            return list(map(ScoredImage, outputs, brightness))
        return list(map(ScoredImage, softmax(outputs), brightness, energies_of(outputs).tolist()))

    def probabilities_of(self, outputs: Scores) -> Scores:
        """Return the probabilities of a network's outputs, [N, classes]."""
        return outputs if self.gives_probabilities else softmax(outputs)

    def _warm_up(self, engine: OnnxRuntimeEngine) -> bool:
        """Run the model; return whether its outputs are probabilities already."""
        side = self.preprocess.crop
        # Three rows of logits do not all sum to 1 by chance.
        noise = np.random.default_rng(0).normal(size=(3, 3, side, side)).astype(np.float32)
        try:
            outputs = engine.run(noise)
            # cuDNN prepares each size of a batch when that first comes: no user is to wait for it.
            for size in (1, GPU_BATCH) if engine.on_gpu else ():
                engine.run(np.zeros((size, 3, side, side), np.float32))
        except Exception as error:
            raise ModelError("ModelNotRunnable", f"The model cannot be run: {str(error).splitlines()[0]}") from error
        require_labels(outputs, self.labels)
        if not np.isfinite(softmax(outputs)).all():
            message = "The model gives NaN or an infinity for ordinary images: one of its weights is probably NaN."
            raise ModelError("ModelNotRunnable", f"{message} Train or export it again.")
        return bool((outputs >= 0).all() and np.allclose(outputs.sum(axis=1), 1, atol=1e-3))


def _find_best_batch(engine: OnnxRuntimeEngine, *, side: int) -> int:
    """Measure whether images are computed faster together than one by one; return the size of a batch."""
    if engine.takes_one:
        return 1
    if engine.on_gpu:
        return GPU_BATCH
    (measured,) = timing.measure(
        [engine],
        sizes=(1, CPU_BATCH),
        side=side,
        pace=timing.unpaced(),
        seconds=_MEASURE_SECONDS,
        rounds=_MEASURE_ROUNDS,
    )
    return timing.best_batch(measured)


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


def _read_preprocess(path: Path, *, default_side: int) -> Preprocess:
    if not path.exists():
        return Preprocess.for_size(default_side)
    try:
        return Preprocess.read(path.read_bytes())
    except PreprocessError as error:
        raise ModelError("BadPreprocess", f"{path.name} is not as it should be: {error}.") from error
