"""Statistics of answers: as the trainer counts them, as documents carry them, and damaged ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bloomery_model.statistics import (
    CONFIDENCE_EDGES,
    STATISTICS,
    Reference,
    energies_of,
    format_statistics,
    parse_statistics,
    read_statistics,
)

PROBABILITIES = np.asarray([[0.95, 0.05], [0.05, 0.95], [0.45, 0.55], [1.0, 0.0]], np.float32)


@pytest.mark.feature("S18")
def test_a_reference_counts_answers_by_class_and_by_confidence() -> None:
    reference = Reference.of(PROBABILITIES)
    assert reference.predictions == (2, 2)
    bins = dict(zip((0.0, *CONFIDENCE_EDGES), reference.confidence.counts, strict=True))
    assert {edge: count for edge, count in bins.items() if count} == {0.5: 1, 0.95: 2, 0.999: 1}


@pytest.mark.feature("S18")
def test_a_reference_survives_its_document(tmp_path: Path) -> None:
    reference = Reference.of(PROBABILITIES)
    content = format_statistics({"reference": reference.document(split="test"), "other": 1})
    assert content is not None
    assert set(json.loads(content)) == {"reference"}
    (tmp_path / STATISTICS).write_bytes(content)
    assert read_statistics(tmp_path, classes=2).reference == reference


@pytest.mark.feature("S18")
def test_a_bin_of_brightness_holds_a_tenth_of_the_images() -> None:
    brightness = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    reference = Reference.of(np.tile(PROBABILITIES, (250, 1)), brightness=brightness)
    assert reference.brightness is not None
    assert reference.brightness.counts == (100,) * 10


@pytest.mark.feature("S17")
def test_thresholds_are_found_by_their_precision() -> None:
    document = {"thresholds": {"levels": [], "precision": {"0.8": [0.5, None], "0.95": [0.9, None]}}}
    statistics = parse_statistics(document, classes=2)
    assert statistics.thresholds_for(0.80) == (0.5, None)
    assert statistics.thresholds_for(0.99) is None


@pytest.mark.feature("S17")
@pytest.mark.feature("S18")
@pytest.mark.parametrize(
    "document",
    [
        {},
        {"thresholds": None, "reference": None},
        {"thresholds": {"precision": {"0.8": [2, 3]}}, "reference": {"predictions": [1, 1]}},
        {"thresholds": {"precision": {"0.8": [0.5]}}},
        {"reference": {"predictions": [1, 1], "confidence": {"edges": [0.5], "counts": [1, 2]}}},
        {"reference": {"predictions": [1, 1], "confidence": {"edges": [0.5], "counts": [2]}}},
        {"reference": {"predictions": [2], "confidence": {"edges": [0.5], "counts": [1, 1]}}},
    ],
)
def test_statistics_of_another_form_count_as_unknown(document: dict[str, Any]) -> None:
    statistics = parse_statistics(document, classes=2)
    assert (statistics.thresholds_for(0.8), statistics.reference) == (None, None)


def test_a_folder_without_statistics_has_none(tmp_path: Path) -> None:
    assert format_statistics({"files": {}}) is None
    assert read_statistics(tmp_path, classes=2).reference is None
    (tmp_path / STATISTICS).write_text("[")
    assert read_statistics(tmp_path, classes=2).reference is None


@pytest.mark.feature("S17")
def test_the_least_energy_is_exceeded_by_95_of_100_images(tmp_path: Path) -> None:
    logits = np.column_stack((np.arange(100.0), np.zeros(100))).astype(np.float32)
    energies = energies_of(logits)
    assert energies[[0, 50]] == pytest.approx([np.log(2), 50], abs=1e-4)
    reference = Reference.of(np.tile(PROBABILITIES, (25, 1)), energies=energies)
    assert reference.least_energy is not None
    assert (energies > reference.least_energy).sum() == 95
    document = reference.document(split="validation")
    assert document["leastEnergy"] == reference.least_energy
    assert parse_statistics({"reference": document}, classes=2).reference == reference


@pytest.mark.feature("S17")
def test_a_model_of_probabilities_has_no_least_energy() -> None:
    assert Reference.of(PROBABILITIES, energies=energies_of(np.log(PROBABILITIES + 1e-9))).least_energy is None
