"""Captures of a service as later images of a Dataset: true labels, trusted answers, and documents that are damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bloomery_model.capture import AnsweringModel, CaptureRecord, TrueLabel
from tests.unit.trainer.prepare.results import count_images, ignored_reasons, list_sides

Prepare = Callable[..., Any]
WriteImage = Callable[..., None]
Capture = Callable[..., str]

DAY = "2026-11-30"
TIME = "2026-11-30T10:00:00Z"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a service's captures."""
    folder = tmp_path / "captures" / "shop" / "flowers"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def capture(folder: Path, write_image: WriteImage) -> Capture:
    """Writes a capture as the model server does; returns its path without its ending."""

    def write(
        number: int, *, label: str | None = None, predicted: str = "roses", score: float = 0.5, unknown: bool = False
    ) -> str:
        name = f"0193-{number:04}"
        path = folder / DAY / name
        write_image(path.with_suffix(".jpg"), seed=1000 + number)
        record = CaptureRecord(
            id=name, time=TIME, image=f"{name}.jpg", sha256="", predicted=predicted, reason="Random", service="flowers",
            scores={predicted: score, "others": 1 - score}, namespace="shop", model=AnsweringModel(digest="sha256:1"),
            unknown=unknown,
        )  # fmt: skip
        path.with_suffix(".json").write_bytes(record.to_json())
        if label is not None:
            path.with_suffix(".label.json").write_bytes(TrueLabel(label=label, time=TIME).to_json())
        return f"{DAY}/{name}"

    return write


@pytest.fixture
def append(prepare: Prepare, flowers: Path, folder: Path) -> Prepare:
    """Prepares the flowers with the captures."""

    def prepare_with_captures(**addition: Any) -> Any:
        return prepare(flowers, append=[{"uri": f"file://{folder}", "from": "Capture", **addition}])

    return prepare_with_captures


@pytest.mark.feature("D18")
def test_captures_have_their_true_label_and_others_are_left_out(append: Prepare, capture: Capture) -> None:
    for number in range(4):
        capture(number, label="tulips", predicted="roses", score=0.999)
    unlabelled = capture(4, score=0.999)

    result = append()

    assert count_images(result.message) == {"roses": 25, "tulips": 24}
    assert ignored_reasons(result.message) == {f"{unlabelled}.jpg": "NoLabel"}


@pytest.mark.feature("D18")
def test_sure_answers_train_without_a_label_and_judge_nothing(append: Prepare, capture: Capture) -> None:
    for number in range(20):
        capture(number, predicted="roses", score=0.995)
    unsure = capture(20, predicted="roses", score=0.99)
    wrong = capture(21, label="tulips", predicted="roses", score=1.0)
    unknown = capture(22, predicted="roses", score=1.0, unknown=True)

    result = append(trustAbove=0.99)

    assert count_images(result.message) == {"roses": 45, "tulips": 21}
    assert ignored_reasons(result.message) == {f"{unsure}.jpg": "NoLabel", f"{unknown}.jpg": "NoLabel"}
    roses = next(entry for entry in result.message["classes"] if entry["name"] == "roses")
    assert roses["validation"] <= 25  # of those with a label
    assert f"{wrong}.jpg" not in ignored_reasons(result.message)


@pytest.mark.feature("D18")
def test_no_answer_is_held_out_whatever_the_share(
    prepare: Prepare, flowers: Path, capture: Capture, folder: Path
) -> None:
    for number in range(20):
        capture(number, predicted="roses", score=0.995)
    addition = {"uri": f"file://{folder}", "from": "Capture", "trustAbove": 0.9}

    alone = prepare(flowers, store="alone", split={"validation": 0.5, "test": 0.3})
    result = prepare(flowers, store="both", split={"validation": 0.5, "test": 0.3}, append=[addition])

    def held_out(message: dict[str, Any]) -> list[tuple[int, int]]:
        return [(entry["validation"], entry["test"]) for entry in message["classes"]]

    assert held_out(result.message) == held_out(alone.message)
    assert result.message["images"] == alone.message["images"] + 20


@pytest.mark.feature("D18")
def test_wrong_answer_for_a_known_image_contradicts_no_label(append: Prepare, capture: Capture, tmp_path: Path) -> None:
    """The images of a training come back in production; a guess must not make both copies suspicious."""
    (tmp_path / "flowers/tulips/same.jpg").parent.mkdir(parents=True, exist_ok=True)
    guess = capture(1, predicted="roses", score=0.999)
    (tmp_path / "flowers/tulips/same.jpg").write_bytes((tmp_path / f"captures/shop/flowers/{guess}.jpg").read_bytes())

    result = append(trustAbove=0.99)

    assert count_images(result.message) == {"roses": 25, "tulips": 21}
    assert ignored_reasons(result.message) == {f"{guess}.jpg": "NoLabel"}
    assert result.message["quality"]["conflicts"] == 0


@pytest.mark.feature("D18")
def test_odd_objects_are_left_out_by_name(append: Prepare, capture: Capture, folder: Path) -> None:
    capture(0, label="tulips")
    damaged, broken, multiline, alone, empty = (capture(number, label="roses") for number in (1, 2, 3, 4, 5))
    (folder / f"{damaged}.label.json").write_text("{", encoding="utf-8")
    (folder / f"{broken}.jpg").write_bytes(b"no image")
    label = {"label": "two\nlines", "time": TIME}
    (folder / f"{multiline}.label.json").write_text(json.dumps(label), encoding="utf-8")
    (folder / f"{empty}.label.json").write_text(json.dumps(label | {"label": ""}), encoding="utf-8")
    (folder / f"{alone}.jpg").unlink()
    (folder / "notes.txt").write_text("hello", encoding="utf-8")

    result = append()

    assert count_images(result.message) == {"roses": 25, "tulips": 21}
    assert ignored_reasons(result.message) == {
        f"{damaged}.jpg": "BadLabel",
        f"{broken}.jpg": "Corrupt",
        f"{multiline}.jpg": "BadLabel",
        f"{empty}.jpg": "BadLabel",
        f"{alone}.json": "NoImage",
        f"{alone}.label.json": "NoImage",
        "notes.txt": "Format",
    }


@pytest.mark.feature("D18")
def test_empty_folder_of_captures_is_no_error(append: Prepare) -> None:
    assert count_images(append().message) == {"roses": 25, "tulips": 20}


@pytest.mark.feature("D18")
def test_images_keep_their_side_when_captures_come(
    prepare: Prepare, flowers: Path, capture: Capture, folder: Path
) -> None:
    addition = {"uri": f"file://{folder}", "from": "Capture", "trustAbove": 0.9}
    capture(0, score=0.95)
    first = prepare(flowers, append=[addition])
    sides = list_sides(first.message)
    for number in range(1, 10):
        capture(number, label="tulips")

    second = prepare(flowers, append=[addition])

    assert sides.items() <= list_sides(second.message).items()
    assert second.message["version"] != first.message["version"]


@pytest.mark.feature("D18")
def test_class_that_feedback_named_waits_for_enough_images(append: Prepare, capture: Capture, folder: Path) -> None:
    slips = [capture(number, label="tulp") for number in range(19)]
    (folder / f"{capture(19, label='tulp')}.jpg").write_bytes(b"no image")

    result = append()

    assert count_images(result.message) == {"roses": 25, "tulips": 20}
    assert {path for path, why in ignored_reasons(result.message).items() if why == "NoLabel"} == {
        f"{slip}.jpg" for slip in slips
    }
    warning = "only captures have the class 'tulp', and 19 of them: it is left out until there are 20"
    assert any(warning in sentence for sentence in result.message["warnings"])

    capture(19, label="tulp")
    assert count_images(append().message) == {"roses": 25, "tulips": 20, "tulp": 20}


@pytest.mark.feature("D18")
def test_label_that_is_corrected_counts(append: Prepare, capture: Capture) -> None:
    capture(0, label="roses")
    assert count_images(append().message) == {"roses": 26, "tulips": 20}
    capture(0, label="tulips")

    assert count_images(append().message) == {"roses": 25, "tulips": 21}


@pytest.mark.feature("D18")
@pytest.mark.parametrize(
    "addition",
    [
        {"trustAbove": 0.9},
        {"from": "Capture", "class": "roses"},
        {"from": "Feedback"},
        {"from": "Capture", "trustAbove": 1},
    ],
    ids=["no captures", "a class", "unknown", "certain"],
)
def test_additions_that_cannot_be_right_are_refused(
    addition: dict[str, Any], prepare: Prepare, flowers: Path, folder: Path
) -> None:
    result = prepare(flowers, append=[{"uri": f"file://{folder}", **addition}])

    assert (result.code, result.reason) == (2, "InvalidConfig")
