"""Folders of volumes: permissions, and the litter of systems and file servers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bloomery_model.sources.base import is_junk_file
from testing.permissions import permissions_obeyed
from tests.unit.trainer.prepare.results import ignored_reasons

Prepare = Callable[..., Any]
WriteImage = Callable[..., None]


@pytest.mark.feature("O6")
def test_unreadable_files_and_folders_are_left_out_by_name(
    prepare: Prepare, write_image: WriteImage, flowers: Path
) -> None:
    write_image(flowers / "roses" / "closed.png")
    (flowers / "roses" / "closed.png").chmod(0)
    for name in ("lost+found", "roses/private"):
        write_image(flowers / name / "1.png")
        (flowers / name).chmod(0)
    with permissions_obeyed():
        result = prepare(flowers)

    assert (result.code, result.message["images"]) == (0, 45)
    assert ignored_reasons(result.message) == {"roses/closed.png": "Unreadable", "roses/private/": "Unreadable"}


def test_label_text_that_cannot_be_read_leaves_its_image_out(prepare: Prepare, labelled: Path) -> None:
    (labelled / "0.txt").chmod(0)
    with permissions_obeyed():
        result = prepare(labelled, rules={"minImagesPerClass": 5})

    assert ignored_reasons(result.message) == {"0.jpg": "BadLabel"}


@pytest.mark.feature("O6")
@pytest.mark.parametrize("name", ["", "roses"])
def test_source_of_which_nothing_can_be_read_is_refused_in_words(prepare: Prepare, flowers: Path, name: str) -> None:
    for number in range(20):
        (flowers / "tulips" / f"{number}.jpg").unlink()
    (flowers / name).chmod(0)
    with permissions_obeyed():
        result = prepare(flowers)

    assert (result.code, result.reason) == (2, "AccessDenied")
    assert "check who may read" in result.sentence
    assert "keys" not in result.sentence


@pytest.mark.feature("O6")
@pytest.mark.parametrize(
    "path",
    [
        "@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg", "#recycle/rose/1.jpg", "$RECYCLE.BIN/S-1-5/1.jpg", "$Recycle.Bin/1.jpg",
        "System Volume Information/1.jpg", "rose/.DS_Store", "__MACOSX/rose/._1.jpg", "rose/THUMBS.DB",
        "rose/Desktop.ini", "rose/._1.jpg", ".ipynb_checkpoints/1.jpg", ".snapshot/rose/1.jpg", "lost+found/#12/1.jpg",
        "rose/Icon\r", "@Recycle/1.jpg", "#snapshot/rose/1.jpg",
    ],
)  # fmt: skip
def test_litter_of_systems_and_file_servers_is_recognised(path: str) -> None:
    assert is_junk_file(path)
    assert not is_junk_file("rose/1.jpg")


@pytest.mark.feature("O6")
def test_litter_is_neither_a_class_nor_a_reason_against_splits(
    prepare: Prepare, write_image: WriteImage, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    for place, split in enumerate(("train", "val")):
        for seed, name in ((20 * place, "cat"), (20 * place + 10, "dog")):
            for number in range(3):
                write_image(source / split / name / f"{number}.png", seed=seed + number)
                write_image(source / split / name / "@eaDir" / f"{number}.png" / "SYNOPHOTO_THUMB_M.jpg", seed=number)
    for name in ("@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"):
        write_image(source / name / "dog" / "1.png")
    result = prepare(source, rules={"minImagesPerClass": 2})

    assert [entry["name"] for entry in result.message["classes"]] == ["cat", "dog"]
    assert result.message["ignored"] == {}
