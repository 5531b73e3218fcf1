"""The choice of an engine, in the background of a server that answers already."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnxruntime

from bloomery_model.cgroup import resident_bytes
from bloomery_model.folder import file_digest
from bloomery_model.references import REFERENCES, References, ReferencesError
from bloomery_serving.engine_choice.comparison import CACHE, Comparison, Served, last_line
from bloomery_serving.engine_choice.record import Conditions, TooManyAttempts, counted_attempt, read_record
from bloomery_serving.engines import openvino
from bloomery_serving.engines.base import ActiveEngine, EngineReport
from bloomery_serving.engines.onnx_runtime import OnnxRuntimeEngine
from bloomery_serving.engines.openvino import OpenVino
from bloomery_serving.engines.timing import Pace, TookTooLong

logger = logging.getLogger(__name__)

MIB = 1024 * 1024
MAX_SECONDS = 300.0
"""Time for all measurements. A large network on a slow processor may not get done in it."""
_BYTES_BY_MODEL = 3
_LEAST_BYTES = 128 * MIB
"""Memory of OpenVINO with a network: so many times the model's size, and the library with its kernels."""


class _NoComparison(Exception):
    """ONNX Runtime goes on; the message is a sentence without its full stop."""


@dataclass(frozen=True)
class EngineSelection:
    """One choice: measures the engines that the settings allow, and lets one take over.

    Attributes:
        served: the model that answers already.
        on_choice: called with the outcome.
    """

    served: Served
    on_choice: Callable[[EngineReport], None]

    def run(self) -> None:
        """Choose. Whatever fails, ONNX Runtime goes on, and the log has a sentence on it."""
        try:
            active = self._choose()
        except (_NoComparison, ReferencesError, TooManyAttempts, TookTooLong) as reason:
            active = self.served.keep(str(reason))
        except Exception as error:  # OpenVINO's own exceptions have no common base
            active = self.served.keep(f"OpenVINO cannot be used: {last_line(error)}")
        self.served.model.slot.replace(active)
        is_other = self.served.setting not in ("Auto", active.report.form.name)
        logger.log(logging.WARNING if is_other else logging.INFO, "%s", active.report.reason)
        self.on_choice(active.report)

    def _choose(self) -> ActiveEngine:
        """Return the engine that is to compute from now on."""
        served, first = self.served, self._measurable()
        references = References.read(self._references, side=served.side, classes=len(served.model.labels))
        self._require_memory()
        with counted_attempt(served.folder / CACHE):
            return self._compare(first, references)

    def _compare(self, first: OnnxRuntimeEngine, references: References) -> ActiveEngine:
        served, library = self.served, OpenVino.load()
        comparison = Comparison(served, first, library, references, Pace(MAX_SECONDS))
        conditions = self._conditions(library)
        record = read_record(served.folder / CACHE, conditions)
        if record is not None:
            return comparison.repeat(record)
        active = comparison.fastest()
        comparison.record(conditions, active)
        return active

    @property
    def _references(self) -> Path:
        """The file of the references; raise _NoComparison if the model has none."""
        if self.served.model.references is None:
            raise _NoComparison(
                f"the model folder has no usable {REFERENCES} to compare another engine with (trainings write it, "
                "and a TrainingJob with evaluateOnly adds it)"
            )
        return self.served.model.references

    def _measurable(self) -> OnnxRuntimeEngine:
        """Return the present engine; raise _NoComparison where no other one comes into question."""
        first = self.served.model.slot.active.engine
        if self.served.setting == "OnnxRuntime":
            raise _NoComparison("the setting asks for it")
        if not isinstance(first, OnnxRuntimeEngine) or first.on_gpu:
            raise _NoComparison("a GPU computes, and OpenVINO is for processors")
        if not openvino.is_installed():
            raise _NoComparison("OpenVINO is not installed here")
        return first

    def _require_memory(self) -> None:
        needed = _BYTES_BY_MODEL * self.served.model_bytes + _LEAST_BYTES
        free = max(0, self.served.limits.memory_bytes - resident_bytes())
        if free < needed:
            raise _NoComparison(
                f"OpenVINO takes up to {needed // MIB} MiB of memory beside it, and {free // MIB} MiB are free; more "
                "memory for the container is the remedy"
            )

    def _conditions(self, library: OpenVino) -> Conditions:
        served = self.served
        return Conditions(
            digest=served.model.digest,
            references=file_digest(self._references),
            setting=served.setting,
            versions=f"OpenVINO {library.version}, ONNX Runtime {onnxruntime.__version__}",
            processor=f"{library.processor}; {os.environ.get('ONEDNN_MAX_CPU_ISA', '')}",
            threads=served.threads,
        )
