"""OpenVINO beside ONNX Runtime: the time that each takes, and whether the answers agree."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np

from bloomery_model.folder import MODEL, ONNX_DATA_SUFFIXES
from bloomery_model.references import Agreement, References
from bloomery_serving.capacity import Capacity
from bloomery_serving.engine_choice.record import ChoiceRecord, Conditions, write_record
from bloomery_serving.engines.base import ActiveEngine, Engine, EngineForm, EngineReport, Measurement, Precision
from bloomery_serving.engines.onnx_runtime import OnnxRuntimeEngine
from bloomery_serving.engines.openvino import OpenVino, OpenVinoEngine
from bloomery_serving.engines.timing import Pace, TookTooLong, best_batch, measure
from bloomery_serving.model import Model
from bloomery_serving.settings import Settings

logger = logging.getLogger(__name__)

CACHE = "engines"
"""Folder beside the model's files: compiled networks, and the choice."""

MOST_COST = 0.9
"""Time of an image with the other engine, as a share of that with ONNX Runtime, from which on it takes over: what one
processor measures twice differs by less."""
MOST_GAIN = 20
"""No engine is so many times faster: such a figure is a mistake of the measurement."""
_SIZES = (1, 2, 4)
"""Sizes of batches that are measured. Larger ones gain a processor little, and their first image waits for the last."""
_MEASURE_SECONDS = 0.7
_MEASURE_ROUNDS = 4
_COMPARED_TOGETHER = 4
_CACHE_BY_MODEL = 2.5
"""Room on the disk for the compiled networks, as a multiple of the model's size."""


@dataclass(frozen=True)
class EngineLimits:
    """Memory and disk that another engine may take.

    Attributes:
        memory_bytes: of this process, with all that it has already.
        disk_bytes: of the folder of the model, with all that is there already; 0 is any.
    """

    memory_bytes: int
    disk_bytes: int = 0


@dataclass(frozen=True)
class Served:
    """The model that answers already, and what another engine may use.

    Attributes:
        model: with ONNX Runtime.
        folder: its files.
        setting: the setting: Auto, OnnxRuntime or OpenVINO.
        threads: runs side by side.
        limits: of what may be taken.
    """

    model: Model
    folder: Path
    setting: str
    threads: int
    limits: EngineLimits

    @classmethod
    def of(cls, settings: Settings, model: Model, capacity: Capacity) -> Self:
        """Return a loaded model with what the settings and the container let another engine use."""
        limits = EngineLimits(memory_bytes=capacity.process_bytes, disk_bytes=settings.model_max_bytes)
        return cls(model, settings.model_dir, settings.engine, threads=capacity.workers, limits=limits)

    @property
    def side(self) -> int:
        """The side of the model's images."""
        return self.model.preprocess.crop

    @property
    def model_bytes(self) -> int:
        """The size of the network's files."""
        paths = self.folder.iterdir()
        return sum(
            path.stat().st_size for path in paths if path.name == MODEL or path.name.endswith(ONNX_DATA_SUFFIXES)
        )

    def keep(self, reason: str, measured: tuple[Measurement, ...] = ()) -> ActiveEngine:
        """Return the present engine, with the reason why it goes on."""
        active = self.model.slot.active
        form = active.engine.form
        return replace(active, report=EngineReport(form, f"{form} goes on: {reason}.", measured))


@dataclass(frozen=True)
class Comparison:
    """OpenVINO beside ONNX Runtime, in all precisions that come into question."""

    served: Served
    first: OnnxRuntimeEngine
    library: OpenVino
    references: References
    pace: Pace

    def fastest(self) -> ActiveEngine:
        """Return the fastest engine that agrees; the present one if that is no other."""
        measured: dict[EngineForm, Measurement] = {}
        failures: dict[EngineForm, str] = {}
        for precision in self._precisions():
            with _failure_noted(EngineForm("OpenVINO", precision), failures):
                self._measure(precision, measured)
        # The fastest first, so that most often one comparison is enough; its compiled form is in the cache.
        for form in sorted(measured, key=lambda form: _least(measured[form])):
            if form.name != "OpenVINO" or not self._may_take_over(measured, form):
                continue
            with _failure_noted(form, failures):
                engine = self._compile(form.precision)
                agreement = self._compare(engine)
                measured[form] = replace(measured[form], agreement=agreement)
                if agreement.holds:
                    return self._take_over(engine, measured, best_batch(measured[form].milliseconds))
        return self.served.keep(_why_not(measured, failures), tuple(measured.values()))

    def repeat(self, record: ChoiceRecord) -> ActiveEngine:
        """Let the engine of an earlier choice take over; only whether its answers agree is looked at again."""
        measured = {measurement.form: measurement for measurement in record.measured}
        engine = self._compile(record.form.precision)
        agreement = self._compare(engine)
        measured[record.form] = replace(measured[record.form], agreement=agreement)
        if not agreement.holds:
            return self.served.keep(_why_not(measured, {}), tuple(measured.values()))
        return self._take_over(engine, measured, record.best_batch)

    def record(self, conditions: Conditions, active: ActiveEngine) -> None:
        """Record a choice of OpenVINO for the next start, and of the compiled networks only that one.

        A choice of ONNX Runtime is made again, as others may have taken the processors during the measurement.
        """
        folder, report = self.served.folder / CACHE, active.report
        for precision in self._precisions():
            if report.form != EngineForm("OpenVINO", precision):
                shutil.rmtree(folder / precision, ignore_errors=True)
        if report.form.name != "OpenVINO":
            return
        try:
            write_record(folder, ChoiceRecord(conditions, report.form, active.best_batch, report.measured))
        except OSError as error:
            logger.info("the choice of the engine is not kept for the next start: %s", error.strerror or error)

    def _precisions(self) -> Sequence[Precision]:
        if self.first.form.precision == "int8":
            return ("int8",)
        return ("bfloat16", "float32") if self.library.has_bfloat16 else ("float32",)

    def _measure(self, precision: Precision, measured: dict[EngineForm, Measurement]) -> None:
        """Measure a precision beside ONNX Runtime, whose best figures count."""
        engine = self._compile(precision)
        engines: tuple[Engine, Engine] = (self.first, engine)
        sizes = (1,) if self.first.takes_one else _SIZES
        figures = measure(
            engines,
            sizes=sizes,
            side=self.served.side,
            pace=self.pace,
            seconds=_MEASURE_SECONDS,
            rounds=_MEASURE_ROUNDS,
        )
        for each, milliseconds in zip(engines, figures, strict=True):
            earlier = measured.get(each.form)
            least = {
                size: min(value, earlier.milliseconds[size]) if earlier else value
                for size, value in milliseconds.items()
            }
            measured[each.form] = Measurement(each.form, least)
        if _least(measured[engine.form]) * MOST_GAIN < _least(measured[self.first.form]):
            del measured[engine.form]
            raise ValueError("its time cannot be measured here")

    def _may_take_over(self, measured: Mapping[EngineForm, Measurement], form: EngineForm) -> bool:
        """Whether an engine is faster at every size of a batch, so that no load is answered more slowly than before."""
        if self.served.setting == "OpenVINO":
            return True
        before = measured[self.first.form].milliseconds
        return all(value <= MOST_COST * before[size] for size, value in measured[form].milliseconds.items())

    def _compile(self, precision: Precision) -> OpenVinoEngine:
        compile_network = partial(
            self.library.compile,
            self.served.folder,
            precision,
            side=self.served.side,
            takes_one=self.first.takes_one,
            threads=self.served.threads,
            cache=self._cache(precision),
        )
        return self.pace.run(compile_network)[0]

    def _cache(self, precision: Precision) -> Path | None:
        """Return the folder of a compiled network; None where the disk has no room, or takes no files."""
        folder, max_bytes = self.served.folder / CACHE / precision, self.served.limits.disk_bytes
        used = sum(path.stat().st_size for path in self.served.folder.rglob("*") if path.is_file())
        if max_bytes and not folder.exists() and used + _CACHE_BY_MODEL * self.served.model_bytes > max_bytes:
            return None
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            return None
        return folder if os.access(folder, os.W_OK) else None

    def _compare(self, engine: Engine) -> Agreement:
        """Return how far an engine's answers are from the references."""
        preprocess, answers = self.served.model.preprocess, []
        for first in range(0, len(self.references.images), _COMPARED_TOGETHER):
            images = self.references.images[first : first + _COMPARED_TOGETHER]
            batch = np.stack([preprocess.normalise(image) for image in images])
            answers.append(self.pace.run(partial(engine.run, batch))[0])
        return self.references.compare(self.served.model.probabilities_of(np.concatenate(answers)))

    def _take_over(
        self, engine: OpenVinoEngine, measured: Mapping[EngineForm, Measurement], batch: int
    ) -> ActiveEngine:
        figures, before = measured[engine.form], measured[self.first.form]
        difference = figures.agreement.largest_difference if figures.agreement else 0.0
        reason = (
            f"{engine.form} answers from now on: an image takes {_least(figures):.2f} ms on a thread, with "
            f"{self.first.form} {_least(before):.2f} ms; its probabilities for {len(self.references.images)} reference "
            f"images differ by at most {difference:.4f}."
        )
        return ActiveEngine(engine, batch, EngineReport(engine.form, reason, tuple(measured.values())))


def _least(measurement: Measurement) -> float:
    return min(measurement.milliseconds.values())


@contextmanager
def _failure_noted(form: EngineForm, failures: dict[EngineForm, str]) -> Iterator[None]:
    """Note the failure of an engine within the block: another precision may work, as instructions differ."""
    try:
        yield
    except TookTooLong:
        raise
    except Exception as error:  # OpenVINO's own exceptions have no common base
        failures[form] = last_line(error)


def last_line(error: Exception) -> str:
    """Return the message of an exception without the places in OpenVINO's sources, and without its full stop."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].rstrip(".")


def _why_not(measured: Mapping[EngineForm, Measurement], failures: Mapping[EngineForm, str]) -> str:
    """Return in words why no other engine was taken."""
    reasons = [f"{form} fails ({failure})" for form, failure in failures.items()]
    for form, figures in measured.items():
        agreement = figures.agreement
        if form in failures:
            continue
        if agreement is not None:
            reasons.append(
                f"{form} does not agree with the references (probabilities differ by up to "
                f"{agreement.largest_difference:.4f}, and {agreement.other_classes} of {agreement.images} images get "
                "another class)"
            )
        else:
            reasons.append(f"{form} takes {_least(figures):.2f} ms an image")
    return ", ".join(reasons)
