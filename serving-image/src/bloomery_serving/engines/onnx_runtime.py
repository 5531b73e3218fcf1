"""ONNX Runtime, on the GPU or the processors: the engine that every server begins with."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from bloomery_model import Tensor
from bloomery_model.onnx_classifier import Scores, is_quantized
from bloomery_serving.engines.base import EngineForm, run_in_parts

logger = logging.getLogger(__name__)

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
"""ONNX Runtime's names of its providers."""


@dataclass(frozen=True)
class OnnxRuntimeEngine:
    """A session of ONNX Runtime."""

    session: ort.InferenceSession
    form: EngineForm
    threads: frozenset[int] = frozenset()

    @classmethod
    def open(cls, path: Path, *, threads: int) -> OnnxRuntimeEngine:
        """Open a file, on the GPU if this build supports one; log the providers.

        Args:
            path: the ONNX file.
            threads: the number that one run may use.
        """
        session = _open_session(path, threads)
        return cls(session, EngineForm("OnnxRuntime", "int8" if is_quantized(path) else "float32"))

    def run(self, batch: Tensor) -> Scores:
        """Return the outputs [N, classes] for a batch [N, 3, side, side]."""
        return run_in_parts(self._infer, batch, takes_one=self.takes_one)

    def _infer(self, batch: Tensor) -> Scores:
        return np.asarray(self.session.run(None, {self.input.name: batch})[0], np.float32)

    @cached_property
    def input(self) -> Any:
        """The input of the network."""
        return self.session.get_inputs()[0]

    @property
    def takes_one(self) -> bool:
        """Whether the network takes one image at a time."""
        return bool(self.input.shape[0] == 1)

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU computes."""
        return CUDA in self.session.get_providers()


def session_options(threads: int) -> ort.SessionOptions:
    """Return the options of every session of this process."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Spinning threads take from their neighbours on shared cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _open_session(path: Path, threads: int) -> ort.InferenceSession:
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
