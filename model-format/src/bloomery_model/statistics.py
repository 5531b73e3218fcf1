"""Statistics of a model's answers on held-out images: thresholds of confidence, and the reference that drift is
measured against.

A training writes them to ``metadata.json``, under ``thresholds`` and ``reference``; an evaluation adds them to a folder
that lacks them. On a server's disk, and beside a model without a ``metadata.json``, they are in ``statistics.json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

STATISTICS = "statistics.json"
PARTS = ("thresholds", "reference")
"""The names of the statistics in metadata.json."""

CONFIDENCE_EDGES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
"""Bounds between the bins of confidence: finer near 1, where most answers of a good model are."""

FAMILIAR_SHARE = 0.95
"""Share of the held-out images that count as familiar: the usual working point for finding images of other things."""
_LEAST_SPREAD = 1e-3

_Count = Annotated[int, Field(ge=0)]
_Share = Annotated[float, Field(ge=0, le=1)]


class Histogram(BaseModel):
    """Counts of a quantity in bins: one more than there are edges between them; a bin holds its lower bound."""

    model_config = ConfigDict(frozen=True)

    edges: tuple[float, ...]
    counts: tuple[_Count, ...]

    @model_validator(mode="after")
    def _require_fitting_edges(self) -> Self:
        if len(self.counts) != len(self.edges) + 1:
            raise ValueError("there must be one more bin than edges")
        return self

    @classmethod
    def of(cls, values: NDArray[np.float32], edges: Sequence[float]) -> Self:
        """Count values, float32 [N]."""
        bins = find_bins(values, edges)
        return cls(edges=tuple(edges), counts=tuple(np.bincount(bins, minlength=len(edges) + 1).tolist()))


class Reference(BaseModel):
    """Distributions of a model's answers on N held-out images, for comparison with those that it gives later.

    Attributes:
        predictions: answers by class, in the order of the classes.
        confidence: answers by their confidence.
        brightness: images by the mean of their normalised pixels.
        least_energy: the energy that FAMILIAR_SHARE of the images exceed; None for a model that gives no logits.
    """

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)

    predictions: tuple[_Count, ...]
    confidence: Histogram
    brightness: Histogram | None = None
    least_energy: float | None = None

    @model_validator(mode="after")
    def _require_one_total(self) -> Self:
        if sum(self.confidence.counts) != sum(self.predictions):
            raise ValueError("there must be as many answers by confidence as by class")
        return self

    @classmethod
    def of(
        cls,
        probabilities: NDArray[np.float32],
        *,
        energies: NDArray[np.float32] | None = None,
        brightness: NDArray[np.float32] | None = None,
    ) -> Self:
        """Count the answers with these probabilities, float32 [N, C].

        Args:
            probabilities: of N images.
            energies: of their logits, float32 [N], if they are known.
            brightness: the means of their normalised pixels, float32 [N], if they are known.
        """
        predicted = np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1])
        return cls(
            predictions=tuple(predicted.tolist()),
            confidence=Histogram.of(probabilities.max(axis=1), CONFIDENCE_EDGES),
            brightness=None if brightness is None else Histogram.of(brightness, _deciles(brightness)),
            least_energy=None if energies is None else _least_energy(energies),
        )

    def document(self, *, split: str) -> dict[str, Any]:
        """Return the document for metadata.json; ``split`` names the images."""
        return {"evaluatedOn": split, "images": sum(self.predictions), **self.model_dump(mode="json", by_alias=True)}


class _Thresholds(BaseModel):
    """The part of the table of thresholds that serving uses."""

    model_config = ConfigDict(frozen=True)

    precision: dict[str, tuple[_Share | None, ...]]


class Statistics(BaseModel):
    """The statistics of a model, as far as they are known."""

    model_config = ConfigDict(frozen=True)

    thresholds: _Thresholds | None = None
    reference: Reference | None = None

    def thresholds_for(self, precision: float) -> tuple[float | None, ...] | None:
        """Return the least confidence of each class that reaches a precision; None for a class that never does.

        None in place of all of them: the model has no thresholds for this precision.
        """
        return self.thresholds.precision.get(f"{precision:g}") if self.thresholds is not None else None


def energies_of(logits: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Return the energy of each row of logits, [N, C]: the logarithm of the sum of their exponentials.

    Networks give familiar images larger logits; softmax loses that (Liu et al. 2020, arXiv:2010.03759, with the sign
    turned: more is more familiar).
    """
    top = logits.max(axis=-1)
    return np.asarray(top + np.log(np.exp(logits - top[..., None]).sum(axis=-1)), np.float32)


def find_bins(values: NDArray[np.floating[Any]], edges: Sequence[float]) -> NDArray[np.int64]:
    """Return the number of the bin of each value, between rising edges."""
    return np.searchsorted(np.asarray(edges, np.float32), values, side="right")


def parse_statistics(document: Mapping[str, Any], *, classes: int) -> Statistics:
    """Return the statistics in a document; a part of another form, or of other classes, is left out."""
    parts = {name: _parse_part(name, document.get(name)) for name in PARTS}
    statistics = Statistics.model_validate({name: part for name, part in parts.items() if part is not None})
    thresholds, reference = statistics.thresholds, statistics.reference
    if thresholds is not None and any(len(values) != classes for values in thresholds.precision.values()):
        thresholds = None
    if reference is not None and len(reference.predictions) != classes:
        reference = None
    return Statistics(thresholds=thresholds, reference=reference)


def read_statistics(folder: Path, *, classes: int) -> Statistics:
    """Read STATISTICS of a local folder; a file that is missing or damaged counts as empty."""
    try:
        document = json.loads((folder / STATISTICS).read_bytes())
    except (OSError, ValueError):
        return Statistics()
    return parse_statistics(document, classes=classes) if isinstance(document, dict) else Statistics()


def format_statistics(document: Mapping[str, Any]) -> bytes | None:
    """Return the content of STATISTICS: the statistics in a document that has more; None if it has none."""
    statistics = {name: document[name] for name in PARTS if document.get(name)}
    return json.dumps(statistics, ensure_ascii=False).encode() if statistics else None


def _deciles(values: NDArray[np.float32]) -> tuple[float, ...]:
    """Return the edges of ten bins that hold a tenth of the values each."""
    return tuple(np.quantile(values, np.arange(1, 10) / 10).tolist())


def _least_energy(energies: NDArray[np.float32]) -> float | None:
    """Return the energy of the least familiar of the familiar images; None if all have one energy.

    A model that ends in a softmax, or in its logarithm, has energy 0 for every image.
    """
    if np.ptp(energies) < _LEAST_SPREAD:
        return None
    return float(np.quantile(energies, 1 - FAMILIAR_SHARE))


def _parse_part(name: str, value: Any) -> Any:
    try:
        return getattr(Statistics.model_validate({name: value}), name)
    except ValidationError:
        return None
