"""References of a model's answers: their file, what counts as damaged, and what counts as agreement."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bloomery_model.references import REFERENCES, References, ReferencesError

pytestmark = pytest.mark.feature("S24")

SIDE = 4


def references(*rows: list[float]) -> References:
    return References(np.zeros((len(rows), SIDE, SIDE, 3), np.uint8), np.asarray(rows, np.float32))


def answers(*rows: list[float]) -> np.ndarray:
    return np.asarray(rows, np.float32)


def test_file_holds_images_and_answers(tmp_path: Path) -> None:
    references([0.9, 0.1], [0.2, 0.8]).write(tmp_path / REFERENCES)
    read = References.read(tmp_path / REFERENCES, side=SIDE, classes=2)
    assert read.images.shape == (2, SIDE, SIDE, 3)
    assert read.probabilities == pytest.approx(answers([0.9, 0.1], [0.2, 0.8]))


@pytest.mark.parametrize(
    ("answer", "agrees"),
    [
        ([0.89, 0.11], True),
        ([0.88, 0.12], True),
        ([0.87, 0.13], False),
        ([0.1, 0.9], False),
        ([float("nan"), 0.1], False),
    ],
)
def test_probabilities_agree_within_two_hundredths(answer: list[float], agrees: bool) -> None:
    assert references([0.9, 0.1]).compare(answers(answer)).holds is agrees


def test_class_may_change_only_where_the_margin_is_small() -> None:
    close, clear = references([0.51, 0.49]), references([0.53, 0.47])
    assert close.compare(answers([0.495, 0.505])).holds
    assert clear.compare(answers([0.49, 0.51])).other_classes == 1


def test_one_class_has_no_margin() -> None:
    assert references([1.0]).compare(answers([1.0])).holds


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 no archive either"])
def test_damaged_file_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / REFERENCES).write_bytes(content)
    with pytest.raises(ReferencesError, match=REFERENCES):
        References.read(tmp_path / REFERENCES, side=SIDE, classes=2)


@pytest.mark.parametrize(("side", "classes"), [(SIDE + 1, 2), (SIDE, 3)])
def test_references_of_another_model_are_refused(tmp_path: Path, side: int, classes: int) -> None:
    references([0.9, 0.1]).write(tmp_path / REFERENCES)
    with pytest.raises(ReferencesError, match="as this model has them"):
        References.read(tmp_path / REFERENCES, side=side, classes=classes)


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    objects = np.asarray([{"an": "object"}], object)
    np.savez(tmp_path / REFERENCES, images=objects, probabilities=objects)
    with pytest.raises(ReferencesError, match="cannot be read"):
        References.read(tmp_path / REFERENCES, side=SIDE, classes=2)
