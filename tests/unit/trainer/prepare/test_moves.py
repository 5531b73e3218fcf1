"""Single images that are moved to another class."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.trainer.prepare.results import count_images

pytestmark = pytest.mark.feature("D16")

Prepare = Callable[..., Any]
WriteImage = Callable[..., None]


def move(image: str, name: str) -> dict[str, str]:
    return {"image": image, "class": name}


def test_moved_images_count_for_their_new_class_in_a_new_version(prepare: Prepare, flowers: Path) -> None:
    before = prepare(flowers)
    after = prepare(flowers, move=[move("roses/3.png", "tulips"), move("roses/4.png", "tulips")])

    assert count_images(after.message) == {"roses": 23, "tulips": 22}
    assert after.message["version"] != before.message["version"]
    assert prepare(flowers, move=[]).message["version"] == before.message["version"]


def test_missing_image_of_a_move_is_named_in_a_warning(prepare: Prepare, flowers: Path) -> None:
    moves = [move("roses/3.png", "tulips"), move("roses/99.png", "tulips"), move("tulips/1.jpg", "roses")]
    ended = prepare(flowers, move=moves, exclude=["tulips/1.jpg"], rules={"minImagesPerClass": 5})

    assert count_images(ended.message) == {"roses": 24, "tulips": 20}
    assert "move: there is no image 'roses/99.png', 'tulips/1.jpg'; give each by its path" in "\n".join(
        ended.message["warnings"]
    )


def test_image_of_several_sources_is_named_in_a_warning(
    prepare: Prepare, flowers: Path, write_image: WriteImage, tmp_path: Path
) -> None:
    write_image(tmp_path / "more" / "roses" / "3.png", seed=900)
    append = [{"uri": f"file://{tmp_path}/more"}]
    ended = prepare(flowers, append=append, move=[move("roses/3.png", "tulips"), move("roses/4.png", "tulips")])

    assert count_images(ended.message) == {"roses": 23, "tulips": 23}
    assert "move: 'roses/3.png' is in several sources, and moved in each of them" in "\n".join(
        ended.message["warnings"]
    )


def test_move_to_an_unknown_class_is_refused_by_name(prepare: Prepare, flowers: Path) -> None:
    ended = prepare(flowers, move=[move("roses/3.png", "tulip")])

    assert (ended.code, ended.reason) == (2, "ClassNotFound")
    assert ended.sentence == "move: there is no class 'tulip' for 'roses/3.png'; there are 'roses', 'tulips'"


def test_moves_use_the_new_names_of_renamed_classes(prepare: Prepare, flowers: Path) -> None:
    ended = prepare(flowers, rename={"tulips": "roses", "roses": "tulips"}, move=[move("roses/3.png", "roses")])

    assert count_images(ended.message) == {"roses": 21, "tulips": 24}


def test_moved_image_stays_in_the_split_of_its_folder(
    prepare: Prepare, write_image: WriteImage, tmp_path: Path
) -> None:
    for number in range(25):
        for split, name, seed in (("train", "a", 0), ("train", "b", 100), ("validation", "a", 200)):
            write_image(tmp_path / "raw" / split / name / f"{number}.png", seed=seed + number)
    ended = prepare(tmp_path / "raw", move=[move("validation/a/0.png", "b"), move("train/b/1.png", "a")])

    counts = {entry["name"]: (entry["train"], entry["validation"]) for entry in ended.message["classes"]}
    assert counts == {"a": (26, 24), "b": (24, 1)}


def test_image_with_a_label_text_is_moved(prepare: Prepare, labelled: Path) -> None:
    ended = prepare(labelled, move=[move("0.jpg", "roses")], rules={"minImagesPerClass": 5})

    assert count_images(ended.message) == {"roses": 21, "美食/凉皮": 19}


def test_paths_match_in_any_unicode_form(prepare: Prepare, flowers: Path, write_image: WriteImage) -> None:
    write_image(flowers / "roses" / unicodedata.normalize("NFD", "größe.png"), seed=999)
    ended = prepare(flowers, move=[move("roses/größe.png", "tulips")])

    assert count_images(ended.message) == {"roses": 25, "tulips": 21}
