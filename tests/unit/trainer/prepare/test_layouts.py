"""Layouts of a source: folders, split folders and label texts; appended and excluded images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.trainer.prepare.results import count_images, ignored_reasons, version_folder

Prepare = Callable[..., Any]
WriteImage = Callable[..., None]


@pytest.mark.feature("D3")
@pytest.mark.feature("D6")
@pytest.mark.parametrize("layout", ["Auto", "ImageText"])
def test_images_with_label_texts_give_a_version(prepare: Prepare, labelled: Path, layout: str) -> None:
    result = prepare(labelled, source={"uri": f"file://{labelled}", "layout": layout})

    assert result.code == 0
    assert count_images(result.message) == {"roses": 20, "美食/凉皮": 20}
    assert result.message["ignored"] == {}


@pytest.mark.feature("D3")
def test_label_text_with_bom_and_crlf_is_read(prepare: Prepare, labelled: Path) -> None:
    (labelled / "0.txt").write_bytes("\ufeff美食/凉皮\r\n".encode())
    result = prepare(labelled)

    assert count_images(result.message) == {"roses": 20, "美食/凉皮": 20}


@pytest.mark.feature("D3")
def test_unlabelled_images_and_unusable_labels_are_ignored(
    prepare: Prepare, write_image: WriteImage, labelled: Path
) -> None:
    write_image(labelled / "alone.jpg")
    (labelled / "nothing.txt").write_text("roses")
    for name, content in {"empty": b" \n", "lines": b"a\nb", "bytes": b"\xff\xfe\x00", "long": b"x" * 2000}.items():
        write_image(labelled / f"{name}.jpg")
        (labelled / f"{name}.txt").write_bytes(content)
    result = prepare(labelled)

    assert result.message["ignored"] == {"BadLabel": 4, "NoImage": 1, "NoLabel": 1}
    assert ignored_reasons(result.message)["alone.jpg"] == "NoLabel"
    assert ignored_reasons(result.message)["nothing.txt"] == "NoImage"


def test_label_texts_in_split_folders_keep_the_split(prepare: Prepare, write_image: WriteImage, tmp_path: Path) -> None:
    for number in range(60):
        folder = tmp_path / "pairs" / ("train" if number < 50 else "validation")
        write_image(folder / f"{number}.png", seed=number)
        (folder / f"{number}.txt").write_text("ab"[number % 2])
    result = prepare(tmp_path / "pairs")

    assert result.message["classes"] == [
        {"name": "a", "train": 25, "validation": 5, "test": 0},
        {"name": "b", "train": 25, "validation": 5, "test": 0},
    ]


def test_few_texts_in_class_folders_are_not_labels(prepare: Prepare, flowers: Path) -> None:
    (flowers / "roses" / "0.txt").write_text("a very fine one")
    result = prepare(flowers)

    assert count_images(result.message) == {"roses": 25, "tulips": 20}
    assert result.message["ignored"] == {"Format": 1}


@pytest.mark.feature("D8")
def test_appended_images_give_a_new_version(
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

    assert count_images(after.message) == {"lilies": 20, "roses": 26, "tulips": 23}
    assert after.message["version"] != before.message["version"]
    assert (version_folder(before.message) / "manifest.json").exists()


@pytest.mark.feature("D8")
def test_images_are_excluded_by_path_and_by_glob(prepare: Prepare, flowers: Path) -> None:
    before = prepare(flowers)
    after = prepare(flowers, exclude=["roses/3.png", "tulips/1?.jpg", "tulips/99.jpg"], rules={"minImagesPerClass": 5})

    assert count_images(after.message) == {"roses": 24, "tulips": 10}
    assert after.message["ignored"] == {"Excluded": 11}
    assert after.message["warnings"][-1] == "exclude: no image fits 'tulips/99.jpg'"
    assert after.message["version"] != before.message["version"]


@pytest.mark.feature("D1")
def test_split_folders_decide_the_split(prepare: Prepare, write_image: WriteImage, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for number in range(30):
        split = "train" if number < 18 else "validation" if number < 28 else "test"
        write_image(source / split / "cat" / f"{number}.png", seed=number)
        write_image(source / split / "dog" / f"{number}.png", seed=100 + number)
    result = prepare(source)

    assert result.message["classes"] == [
        {"name": "cat", "train": 18, "validation": 10, "test": 2},
        {"name": "dog", "train": 18, "validation": 10, "test": 2},
    ]


def test_junk_files_are_skipped_silently(prepare: Prepare, flowers: Path) -> None:
    for litter in (".DS_Store", "roses/.DS_Store", "__MACOSX/roses/._1.png", "roses/Thumbs.db", ".git/config"):
        (flowers / litter).parent.mkdir(parents=True, exist_ok=True)
        (flowers / litter).write_bytes(b"x")
    result = prepare(flowers)

    assert result.message["ignored"] == {}
    assert result.message["classCount"] == 2


def test_empty_source_is_bad_data(prepare: Prepare, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    result = prepare(tmp_path / "source")

    assert (result.code, result.sentence) == (3, f"there is nothing under file://{tmp_path}/source")


def test_images_without_class_folders_are_bad_data(prepare: Prepare, write_image: WriteImage, tmp_path: Path) -> None:
    write_image(tmp_path / "source" / "1.png")
    result = prepare(tmp_path / "source")

    assert (result.code, result.sentence) == (
        3, f"there are loose files but no class folders under file://{tmp_path}/source",
    )  # fmt: skip
