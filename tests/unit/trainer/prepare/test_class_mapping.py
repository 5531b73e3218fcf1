"""Renamed, chosen and invalid class names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bloomery_trainer.class_names import invalid_characters, suggest_class_name
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
    assert f"{name!r} has {bad}; class names may have letters and digits of any script" in result.sentence


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


@pytest.mark.feature("D6")
@pytest.mark.parametrize("name", ["می‌خواهم", "क्‍ष", "〇一", "コーヒー・豆", "Ⅳ期", "col·legi", "བོད་ཡིག", "m²", "צ׳ק"])
def test_signs_inside_words_of_any_script_are_valid(name: str) -> None:
    assert invalid_characters(name) == []
    assert suggest_class_name(name, ()) == name


@pytest.mark.parametrize(
    "name",
    [
        "rose\u200d", "\u200crose", "a \u200d b", "\u200d", "a\u200bb", "a\u202eb", "a\u2066b", "a\ufeffb", "a\u00adb",
        "a\x00b", "a\nb", "a\x85b", "a\u2028b", "a\\b", "a:b", "a🌷b", "a.b",
    ],
)  # fmt: skip
def test_invisible_and_control_characters_are_invalid(name: str) -> None:
    suggestion = suggest_class_name(name, ())

    assert invalid_characters(name) != []
    assert invalid_characters(suggestion) == []


@pytest.mark.feature("D6")
def test_spaces_of_each_kind_are_one_space(prepare: Prepare, write_image: WriteImage, flowers: Path) -> None:
    (flowers / "roses").rename(flowers / "red\u00a0roses")
    write_image(flowers / "red roses" / "1.png", seed=71)
    write_image(flowers / "red\u3000roses" / "2.png", seed=72)
    write_image(flowers / "more" / "3.png", seed=73)
    result = prepare(flowers, rename={"more": "red\u202froses"}, classes=["red\u00a0roses", "tulips"])

    assert count_images(result.message) == {"red roses": 28, "tulips": 20}


@pytest.mark.feature("D5")
@pytest.mark.feature("D17")
def test_all_invalid_names_are_refused_together_with_a_suggested_rename(
    prepare: Prepare, write_image: WriteImage, flowers: Path
) -> None:
    for number, name in enumerate(("St. Bernard", "a,b", "a b", "AT&T/<x>")):
        write_image(flowers / name / "1.png", seed=500 + number)
    refused = prepare(flowers, rules={"minImagesPerClass": 1})
    block = re.search(r"add to spec, rename: (\{.*\})$", refused.sentence)
    assert block is not None
    accepted = prepare(flowers, rules={"minImagesPerClass": 1}, rename=yaml.safe_load(block[1]))

    assert refused.reason == "BadClassName"
    assert yaml.safe_load(block[1]) == {"AT&T/<x>": "AT T/x", "St. Bernard": "St Bernard", "a,b": "a b 2"}
    assert set(count_images(accepted.message)) == {"AT T/x", "St Bernard", "a b", "a b 2", "roses", "tulips"}


def test_hundreds_of_invalid_names_are_counted_and_twenty_listed(prepare: Prepare, flowers: Path) -> None:
    for number in range(200):
        (flowers / f"{number}.{'x' * 30}").mkdir()
        (flowers / f"{number}.{'x' * 30}" / "1.png").write_bytes(b"x")
    result = prepare(flowers)

    assert result.sentence.startswith("200 class names cannot be used: ")
    assert result.sentence.endswith("(and 180 more: the log has all)")


@pytest.mark.feature("D5")
def test_names_that_differ_in_case_or_spaces_give_a_warning(
    prepare: Prepare, write_image: WriteImage, flowers: Path
) -> None:
    """The warning suggests a rename."""
    for name in ("Healthy", "healthy", "healthy "):
        for number in range(2):
            write_image(flowers / name / f"{number}.png", seed=1000 * len(name) + number + ord(name[0]))
    result = prepare(flowers, rules={"minImagesPerClass": 2})
    warning = next(warning for warning in result.message["warnings"] if "differ only" in warning)

    assert "'Healthy', 'healthy', 'healthy '" in warning
    merged = prepare(flowers, rules={"minImagesPerClass": 2}, rename=yaml.safe_load(warning.partition("rename: ")[2]))
    assert set(count_images(merged.message)) == {"healthy", "roses", "tulips"}


def test_class_of_other_case_in_validation_is_named_beside_its_twin(
    prepare: Prepare, write_image: WriteImage, tmp_path: Path
) -> None:
    for name in ("train/Cat", "train/dog", "validation/cat", "validation/dog"):
        write_image(tmp_path / "source" / name / "1.png")
    result = prepare(tmp_path / "source")

    assert result.sentence.startswith("class 'cat' is under validation/ but not under train/; is it the class 'Cat'?")
