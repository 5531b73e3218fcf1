"""What a user gets from label texts, later images, exclusions, new names and chosen classes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Prepare = Callable[..., Any]
WriteImage = Callable[..., None]


def folder_of(message: dict[str, Any]) -> Path:
    return Path(str(message["uri"]).removeprefix("file://"))


def counts(message: dict[str, Any]) -> dict[str, int]:
    return {c["name"]: c["train"] + c["validation"] + c["test"] for c in message["classes"]}


def ignored(message: dict[str, Any]) -> dict[str, str]:
    lines = (folder_of(message) / "ignored.jsonl").read_text(encoding="utf-8").splitlines()
    return {entry["key"]: entry["reason"] for entry in map(json.loads, lines)}


@pytest.fixture
def labelled(tmp_path: Path, write_image: WriteImage) -> Path:
    """Pairs of n.jpg and n.txt: 20 of one class, 20 of another."""
    folder = tmp_path / "labelled"
    for number in range(40):
        write_image(folder / f"{number}.jpg", seed=number)
        label = "美食/凉皮" if number < 20 else "roses"
        (folder / f"{number}.txt").write_text(label, encoding="utf-8")
    return folder


@pytest.mark.feature("D3")
@pytest.mark.feature("D6")
@pytest.mark.parametrize("layout", ["Auto", "ImageText"])
def test_images_with_a_label_text_beside_them_become_a_version(prepare: Prepare, labelled: Path, layout: str) -> None:
    ended = prepare(labelled, source={"uri": f"file://{labelled}", "layout": layout})

    assert ended.code == 0
    assert counts(ended.message) == {"roses": 20, "美食/凉皮": 20}
    assert ended.message["ignored"] == {}


@pytest.mark.feature("D3")
def test_label_texts_may_have_a_byte_order_mark_and_line_ends_of_windows(prepare: Prepare, labelled: Path) -> None:
    (labelled / "0.txt").write_bytes("\ufeff美食/凉皮\r\n".encode())
    ended = prepare(labelled)

    assert counts(ended.message) == {"roses": 20, "美食/凉皮": 20}


@pytest.mark.feature("D3")
def test_what_has_no_partner_or_no_usable_label_is_ignored_with_its_reason(
    prepare: Prepare, write_image: WriteImage, labelled: Path
) -> None:
    write_image(labelled / "alone.jpg")
    (labelled / "nothing.txt").write_text("roses")
    for name, content in {"empty": b" \n", "lines": b"a\nb", "bytes": b"\xff\xfe\x00", "long": b"x" * 2000}.items():
        write_image(labelled / f"{name}.jpg")
        (labelled / f"{name}.txt").write_bytes(content)
    ended = prepare(labelled)

    assert ended.message["ignored"] == {"BadLabel": 4, "NoImage": 1, "NoLabel": 1}
    assert ignored(ended.message)["alone.jpg"] == "NoLabel"
    assert ignored(ended.message)["nothing.txt"] == "NoImage"


def test_label_texts_under_train_and_validation_keep_that_split(
    prepare: Prepare, write_image: WriteImage, tmp_path: Path
) -> None:
    for number in range(60):
        folder = tmp_path / "pairs" / ("train" if number < 50 else "validation")
        write_image(folder / f"{number}.png", seed=number)
        (folder / f"{number}.txt").write_text("ab"[number % 2])
    ended = prepare(tmp_path / "pairs")

    assert ended.message["classes"] == [
        {"name": "a", "train": 25, "validation": 5, "test": 0},
        {"name": "b", "train": 25, "validation": 5, "test": 0},
    ]


def test_a_few_notes_in_class_folders_do_not_make_them_label_texts(prepare: Prepare, flowers: Path) -> None:
    (flowers / "roses" / "0.txt").write_text("a very fine one")
    ended = prepare(flowers)

    assert counts(ended.message) == {"roses": 25, "tulips": 20}
    assert ended.message["ignored"] == {"Format": 1}


def test_a_label_with_forbidden_characters_is_refused_in_words(prepare: Prepare, labelled: Path) -> None:
    (labelled / "0.txt").write_text("<script>")
    ended = prepare(labelled)

    assert (ended.code, ended.reason) == (3, "BadClassName")


@pytest.mark.feature("D8")
def test_later_images_go_to_their_classes_or_into_one_and_the_old_version_stays(
    prepare: Prepare, write_image: WriteImage, flowers: Path, tmp_path: Path
) -> None:
    before = prepare(flowers)
    for number in range(20):
        write_image(tmp_path / "more" / "lilies" / f"{number}.png", seed=1000 + number)
    write_image(tmp_path / "more" / "roses" / "late.png", seed=2000)
    for number in range(3):
        write_image(tmp_path / "loose" / "any" / "where" / f"{number}.png", seed=3000 + number)
    more = [{"uri": f"file://{tmp_path}/more"}, {"uri": f"file://{tmp_path}/loose", "class": "tulips"}]
    after = prepare(flowers, append=more)

    assert counts(after.message) == {"lilies": 20, "roses": 26, "tulips": 23}
    assert after.message["version"] != before.message["version"]
    assert (folder_of(before.message) / "manifest.json").exists()


@pytest.mark.feature("D8")
def test_images_are_taken_out_by_path_and_by_glob(prepare: Prepare, flowers: Path) -> None:
    before = prepare(flowers)
    after = prepare(flowers, exclude=["roses/3.png", "tulips/1?.jpg", "tulips/99.jpg"], rules={"minImagesPerClass": 5})

    assert counts(after.message) == {"roses": 24, "tulips": 10}
    assert after.message["ignored"] == {"Excluded": 11}
    assert after.message["warnings"][-1] == "exclude: no image fits 'tulips/99.jpg'"
    assert after.message["version"] != before.message["version"]


@pytest.mark.feature("D8")
def test_a_renamed_class_is_a_new_version(prepare: Prepare, flowers: Path) -> None:
    before = prepare(flowers)
    after = prepare(flowers, rename={"tulips": "郁金香"})

    assert counts(after.message) == {"roses": 25, "郁金香": 20}
    assert after.message["version"] != before.message["version"]


@pytest.mark.feature("D8")
def test_two_classes_may_become_one_and_two_may_swap_their_names(
    prepare: Prepare, write_image: WriteImage, flowers: Path
) -> None:
    for number in range(21):
        write_image(flowers / "rose" / f"{number}.png", seed=700 + number)
    merged = prepare(flowers, rename={"rose": "roses"})
    swapped = prepare(flowers, rename={"roses": "tulips", "tulips": "roses"})

    assert counts(merged.message) == {"roses": 46, "tulips": 20}
    assert counts(swapped.message) == {"rose": 21, "roses": 20, "tulips": 25}


def test_a_name_that_may_not_be_can_be_renamed(prepare: Prepare, flowers: Path) -> None:
    (flowers / "roses").rename(flowers / "roses (red)")
    ended = prepare(flowers, rename={"roses (red)": "roses"})

    assert counts(ended.message) == {"roses": 25, "tulips": 20}


@pytest.mark.feature("D12")
def test_only_the_chosen_classes_are_used(prepare: Prepare, write_image: WriteImage, flowers: Path) -> None:
    write_image(flowers / "<bad>" / "1.png")
    write_image(flowers / "few" / "1.png")
    ended = prepare(flowers, classes=["roses", "tulips"])

    assert counts(ended.message) == {"roses": 25, "tulips": 20}
    assert ended.message["ignored"] == {}


@pytest.mark.feature("D12")
def test_label_texts_can_be_renamed_and_chosen_too(prepare: Prepare, write_image: WriteImage, labelled: Path) -> None:
    for number in range(20):
        write_image(labelled / f"x{number}.png", seed=300 + number)
        (labelled / f"x{number}.txt").write_text("weeds")
    ended = prepare(labelled, rename={"美食/凉皮": "food"}, classes=["food", "roses"])

    assert counts(ended.message) == {"food": 20, "roses": 20}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"rename": {"lilies": "lily"}}, "rename: there is no class 'lilies'; there are 'roses', 'tulips'"),
        ({"classes": ["roses", "lilies"]}, "classes: there is no class 'lilies'; there are 'roses', 'tulips'"),
    ],
)
def test_a_class_that_is_not_there_is_refused_in_words(
    prepare: Prepare, flowers: Path, changes: dict[str, Any], sentence: str
) -> None:
    ended = prepare(flowers, **changes)

    assert (ended.code, ended.reason, ended.sentence) == (2, "ClassNotFound", sentence)


def test_what_is_written_about_a_dataset_makes_no_new_version(prepare: Prepare, flowers: Path) -> None:
    before = prepare(flowers)
    after = prepare(flowers, displayName="Blumen", description="…", rules={"maxArchiveBytes": 1})

    assert after.message["version"] == before.message["version"]


@pytest.mark.feature("D5")
def test_every_ignored_file_is_listed_beside_the_manifest_which_names_the_first_thousand(
    prepare: Prepare, flowers: Path
) -> None:
    for number in range(1500):
        (flowers / "roses" / f"{number}.gif").write_bytes(b"x")
    ended = prepare(flowers)
    manifest = json.loads((folder_of(ended.message) / "manifest.json").read_bytes())

    assert manifest["ignoredCounts"] == {"Format": 1500}
    assert len(manifest["ignored"]) == 1000
    assert len(ignored(ended.message)) == 1500
