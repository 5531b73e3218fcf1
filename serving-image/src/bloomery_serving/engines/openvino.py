"""OpenVINO on the processors, where its package is installed.

Its kernels use what ONNX Runtime's do not: bfloat16 (AVX-512 BF16, AMX) and, for int8, more of VNNI and AMX.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bloomery_model import Tensor
from bloomery_model.folder import MODEL
from bloomery_model.onnx_classifier import Scores
from bloomery_serving.engines.base import EngineForm, Precision, run_in_parts
from bloomery_serving.engines.timing import thread_numbers

_DEVICE = "CPU"
_BFLOAT16 = "BF16"
_HINTS = {"float32": "f32", "bfloat16": "bf16"}
_UNWANTED = ("openvino_telemetry", "openvino.tools.ovc")
"""Modules that OpenVINO does without: the first reports its use to its maker, the second loads the first and converts
models, which takes a quarter of a second. ``None`` in ``sys.modules`` makes their import fail, as Python documents."""


def is_installed() -> bool:
    """Return whether this environment has OpenVINO; images and kits for GPUs have not."""
    return importlib.util.find_spec("openvino") is not None


@dataclass(frozen=True)
class OpenVino:
    """The library, loaded: compiles a model folder's network."""

    core: Any
    version: str
    threads: set[int] = field(default_factory=set)
    """Numbers of the threads that computed for any network: the library uses them again for the next one."""

    @classmethod
    def load(cls) -> OpenVino:
        """Load the library, without its telemetry; it takes some tenths of a second."""
        for name in _UNWANTED:
            sys.modules.setdefault(name, None)  # type: ignore[arg-type]
        library = importlib.import_module("openvino")
        return cls(library.Core(), library.get_version())

    @property
    def processor(self) -> str:
        """The processor's name, and the number formats that it has instructions for."""
        return f"{self.core.get_property(_DEVICE, 'FULL_DEVICE_NAME')}: {', '.join(sorted(self._capabilities))}"

    @property
    def has_bfloat16(self) -> bool:
        """Whether the processor computes in bfloat16; others would emulate it."""
        return _BFLOAT16 in self._capabilities

    def compile(
        self, folder: Path, precision: Precision, *, side: int, takes_one: bool, threads: int, cache: Path | None
    ) -> OpenVinoEngine:
        """Compile a network for several runs side by side, each on one thread.

        Args:
            folder: the model folder.
            precision: of the computation; a folder in int8 keeps its own for the rest of the network.
            side: of the images.
            takes_one: whether the network takes one image at a time.
            threads: runs side by side.
            cache: folder that the compiled network is kept in, and taken from where it is there already.
        """
        network = self.core.read_model(folder / MODEL)
        network.reshape([1 if takes_one else -1, 3, side, side])
        options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": _HINTS.get(precision, "f32"),
            "NUM_STREAMS": threads,
            "INFERENCE_NUM_THREADS": threads,
            # Pinned threads would share a processor with their neighbours' while others are idle.
            "ENABLE_CPU_PINNING": False,
        }
        if cache is not None:
            options["CACHE_DIR"] = str(cache)
        before = thread_numbers()
        compiled = self.core.compile_model(network, _DEVICE, options)
        self.threads.update(thread_numbers() - before)
        form = EngineForm("OpenVINO", precision)
        return OpenVinoEngine(compiled, form, takes_one=takes_one, threads=frozenset(self.threads))

    @property
    def _capabilities(self) -> list[str]:
        return list(self.core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES"))


class OpenVinoEngine:
    """A compiled network; each thread that runs it has a request of its own."""

    def __init__(self, compiled: Any, form: EngineForm, *, takes_one: bool, threads: frozenset[int]) -> None:
        self._compiled = compiled
        self._form = form
        self._takes_one = takes_one
        self._threads = threads
        self._requests = threading.local()

    @property
    def form(self) -> EngineForm:
        """Its name and precision."""
        return self._form

    @property
    def threads(self) -> frozenset[int]:
        """The system's numbers of its threads: a run computes on one of them, and its caller waits."""
        return self._threads

    def run(self, batch: Tensor) -> Scores:
        """Return the outputs [N, classes] for a batch [N, 3, side, side]."""
        return run_in_parts(self._infer, batch, takes_one=self._takes_one)

    def _infer(self, batch: Tensor) -> Scores:
        request = getattr(self._requests, "own", None)
        if request is None:
            request = self._requests.own = self._compiled.create_infer_request()
        # The outputs are copied: the request's own memory is written again by the next run.
        return np.asarray(request.infer([batch], share_inputs=True, share_outputs=False)[0], np.float32)
