"""The model: load, predict, metadata, ready."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from bloomery_serving.errors import ModelError
from bloomery_serving.images import Preprocess, Tensor

Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Model:
    """A loaded classifier; ``predict`` may be called from many threads at once."""

    session: ort.InferenceSession
    labels: tuple[str, ...]
    preprocess: Preprocess
    digest: str

    @classmethod
    def load(cls, folder: Path, *, digest: str, threads: int) -> Model:
        """Load a model folder; ``threads`` is how many one prediction may use.

        Raises:
            ModelError: the folder holds no model that can be run; says why.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        # Spinning threads take from their neighbours on shared cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            labels = tuple((folder / "labels.txt").read_text(encoding="utf-8").splitlines())
            preprocess = Preprocess.read(folder / "preprocess.json")
            session = ort.InferenceSession(folder / "model.onnx", options, providers=_providers())
        except Exception as error:  # ONNX Runtime's own exceptions have no common base
            raise ModelError("ModelNotLoaded", f"The model can not be loaded: {str(error).splitlines()[0]}") from error
        return cls(session, labels, preprocess, digest)

    def predict(self, tensors: Sequence[Tensor]) -> Scores:
        """Return the probability of each class, float32 [N, classes], of N tensors [3, crop, crop]."""
        (logits,) = self.session.run(None, {self._input.name: np.stack(tensors)})
        return softmax(np.asarray(logits, np.float32))

    def warm_up(self) -> None:
        """Run once, so that the first user does not wait for memory and kernels.

        Raises:
            ModelError: the model does not run, or its classes are not those of labels.txt.
        """
        side = self.preprocess.crop
        try:
            scores = self.predict([np.zeros((3, side, side), np.float32)])
        except Exception as error:
            raise ModelError("ModelNotRunnable", f"The model can not be run: {str(error).splitlines()[0]}") from error
        if scores.shape[1] != len(self.labels):
            message = f"The model has {scores.shape[1]} classes, but labels.txt names {len(self.labels)}."
            raise ModelError("LabelsMismatch", message)

    @property
    def metadata(self) -> dict[str, Any]:
        """What it takes and gives."""
        return {
            "classes": len(self.labels),
            "input": [-1, 3, self.preprocess.crop, self.preprocess.crop],
            "providers": self.session.get_providers(),
        }

    @property
    def _input(self) -> Any:
        return self.session.get_inputs()[0]


def softmax(logits: Scores) -> Scores:
    """Return probabilities over the last axis, without overflow."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: Scores = shifted / shifted.sum(axis=-1, keepdims=True)
    return probabilities


def _providers() -> list[str]:
    """Return the GPU's provider where the pod has one, and the CPU's."""
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    return [provider for provider in wanted if provider in ort.get_available_providers()]
