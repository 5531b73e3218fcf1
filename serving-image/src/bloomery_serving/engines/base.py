"""Engines behind one interface, and the one that computes at present."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from bloomery_model import Tensor
from bloomery_model.onnx_classifier import Scores, as_rows
from bloomery_model.references import Agreement

EngineName = Literal["OnnxRuntime", "OpenVINO"]
Precision = Literal["float32", "bfloat16", "int8"]


@dataclass(frozen=True)
class EngineForm:
    """An engine in one of its precisions."""

    name: EngineName
    precision: Precision

    def __str__(self) -> str:
        """Return it in words."""
        return f"{'ONNX Runtime' if self.name == 'OnnxRuntime' else self.name} in {self.precision}"


class Engine(Protocol):
    """A loaded network."""

    @property
    def form(self) -> EngineForm:
        """Its name and precision."""

    @property
    def threads(self) -> frozenset[int]:
        """The system's numbers of the threads that compute for it, beside the one that calls it."""

    def run(self, batch: Tensor) -> Scores:
        """Return the outputs [N, classes] for a batch [N, 3, side, side]; many threads may call it at once."""


@dataclass(frozen=True)
class Measurement:
    """Figures of one engine on this machine.

    Attributes:
        form: the engine.
        milliseconds: for an image on one thread, by the size of its batch.
        agreement: with the references; None where it was not compared.
    """

    form: EngineForm
    milliseconds: Mapping[int, float]
    agreement: Agreement | None = None

    def document(self) -> dict[str, Any]:
        """Return the document for the model's metadata."""
        document: dict[str, Any] = {
            "name": self.form.name,
            "precision": self.form.precision,
            "milliseconds": {str(size): round(value, 3) for size, value in self.milliseconds.items()},
        }
        if self.agreement is not None:
            difference = self.agreement.largest_difference
            document["agrees"] = self.agreement.holds
            document["largest_difference"] = round(difference, 6) if np.isfinite(difference) else None
            document["other_classes"] = self.agreement.other_classes
            document["reference_images"] = self.agreement.images
        return document


@dataclass(frozen=True)
class EngineReport:
    """The choice of an engine: the engine, the reason as a sentence, and the figures that led to it."""

    form: EngineForm
    reason: str
    measured: tuple[Measurement, ...] = ()

    def document(self) -> dict[str, Any]:
        """Return the document for the model's metadata."""
        return {
            "name": self.form.name,
            "precision": self.form.precision,
            "reason": self.reason,
            "measured": [measurement.document() for measurement in self.measured],
        }


@dataclass(frozen=True)
class ActiveEngine:
    """The engine that computes, with the number of waiting images that it computes together."""

    engine: Engine
    best_batch: int
    report: EngineReport


class EngineSlot:
    """The place of a model's engine; another may take it between two batches."""

    def __init__(self, active: ActiveEngine) -> None:
        self._active = active

    @property
    def active(self) -> ActiveEngine:
        """The engine at present: a batch that has begun ends with the engine that it began with."""
        return self._active

    def replace(self, active: ActiveEngine) -> None:
        """Let another engine compute all batches from now on."""
        self._active = active


def run_in_parts(infer: Callable[[Tensor], Scores], batch: Tensor, *, takes_one: bool) -> Scores:
    """Return the outputs [N, classes] for a batch; a model that was exported for one image takes no more at a time."""
    outputs = np.concatenate([infer(part) for part in np.split(batch, len(batch))]) if takes_one else infer(batch)
    return as_rows(outputs)
