"""Renamed, chosen and invalid class names."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.trainer.prepare.results import count_images

Prepare = Callable[..., Any]
WriteImage = Callable[..., None]


def test_class_without_training_images_is_refused(prepare: Prepare, write_image: WriteImage, tmp_path: Path) -> None:
    for name in ("train/cat", "train/dog", "validation/cat", "validation/cow"):
        write_image(tmp_path / "source" / name / "1.png")
    result = prepare(tmp_path / "source")

    assert (result.code, result.reason) == (3, "MissingSplit")
    assert result.sentence == "class 'cow' is under validation/ but not under train/"


@pytest.mark.feature("D6")
@pytest.mark.parametrize("name", ["美食/凉皮", "फूल", "Été_2-b", "ดอกไม้ 1"])
def test_class_names_of_any_script_are_valid(prepare: Prepare, flowers: Path, name: str) -> None:
    (flowers / name).parent.mkdir(exist_ok=True)
    (flowers / "roses").rename(flowers / name)
    result = prepare(flowers)

    assert result.code == 0
    assert name in [entry["name"] for entry in result.message["classes"]]


def test_composed_and_decomposed_accents_are_one_class(
    prepare: Prepare, write_image: WriteImage, flowers: Path
) -> None:
    (flowers / "roses").rename(flowers / unicodedata.normalize("NFD", "Été"))
    write_image(flowers / unicodedata.normalize("NFC", "Été") / "one.png", seed=77)
    result = prepare(flowers)

    assert {entry["name"]: entry["train"] for entry in result.message["classes"]} == {"Été": 21, "tulips": 16}


@pytest.mark.parametrize(("name", "bad"), [("a,b", "','"), ("<b>", "'<' '>'"), ("a;b", "';'")])
def test_invalid_class_names_are_refused(prepare: Prepare, flowers: Path, name: str, bad: str) -> None:
    (flowers / "roses").rename(flowers / name)
    result = prepare(flowers)

    assert (result.code, result.reason) == (3, "BadClassName")
    assert f"has {bad}; class names may have letters of any script" in result.sentence


@pytest.mark.feature("D8")
def test_renamed_class_gives_a_new_version(prepare: Prepare, flowers: Path) -> None:
    before = prepare(flowers)
    after = prepare(flowers, rename={"tulips": "郁金香"})

    assert count_images(after.message) == {"roses": 25, "郁金香": 20}
    assert after.message["version"] != before.message["version"]


@pytest.mark.feature("D8")
def test_classes_can_be_merged_and_swapped(prepare: Prepare, write_image: WriteImage, flowers: Path) -> None:
    for number in range(21):
        write_image(flowers / "rose" / f"{number}.png", seed=700 + number)
    merged = prepare(flowers, rename={"rose": "roses"})
    swapped = prepare(flowers, rename={"roses": "tulips", "tulips": "roses"})

    assert count_images(merged.message) == {"roses": 46, "tulips": 20}
    assert count_images(swapped.message) == {"rose": 21, "roses": 20, "tulips": 25}


def test_invalid_class_name_can_be_renamed(prepare: Prepare, flowers: Path) -> None:
    (flowers / "roses").rename(flowers / "roses (red)")
    result = prepare(flowers, rename={"roses (red)": "roses"})

    assert count_images(result.message) == {"roses": 25, "tulips": 20}


@pytest.mark.feature("D12")
def test_only_chosen_classes_are_used(prepare: Prepare, write_image: WriteImage, flowers: Path) -> None:
    write_image(flowers / "<bad>" / "1.png")
    write_image(flowers / "few" / "1.png")
    result = prepare(flowers, classes=["roses", "tulips"])

    assert count_images(result.message) == {"roses": 25, "tulips": 20}
    assert result.message["ignored"] == {}


@pytest.mark.feature("D12")
def test_label_text_classes_can_be_renamed_and_chosen(
    prepare: Prepare, write_image: WriteImage, labelled: Path
) -> None:
    for number in range(20):
        write_image(labelled / f"x{number}.png", seed=300 + number)
        (labelled / f"x{number}.txt").write_text("weeds")
    result = prepare(labelled, rename={"美食/凉皮": "food"}, classes=["food", "roses"])

    assert count_images(result.message) == {"food": 20, "roses": 20}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"rename": {"lilies": "lily"}}, "rename: there is no class 'lilies'; there are 'roses', 'tulips'"),
        ({"classes": ["roses", "lilies"]}, "classes: there is no class 'lilies'; there are 'roses', 'tulips'"),
    ],
)
def test_unknown_class_is_refused(prepare: Prepare, flowers: Path, changes: dict[str, Any], sentence: str) -> None:
    result = prepare(flowers, **changes)

    assert (result.code, result.reason, result.sentence) == (2, "ClassNotFound", sentence)
