"""Warnings about images with the same content."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bloomery_trainer.prepare.copies import describe_copies
from bloomery_trainer.prepare.file_table import Copy

Prepare = Callable[..., Any]
WriteImage = Callable[..., None]


def copy(content: int, key: str, class_name: str = "rose", split: str | None = "train") -> Copy:
    return Copy(bytes([content]), key, class_name, split)


def test_copies_that_cross_class_and_split_are_named() -> None:
    sentences = describe_copies([
        copy(1, "a"), copy(1, "b"),
        copy(2, "c"), copy(2, "d", "tulip"), copy(2, "e", "tulip", "test"),
        copy(3, "f", split="validation"), copy(3, "g"),
    ])  # fmt: skip

    assert sentences == [
        "4 images are exact copies of another one: 'a' and 'b'",
        "the same image is in two classes, so that one label must be wrong: "
        "'c' (rose) and 'd' (tulip); 'c' (rose) and 'e' (tulip)",
        "the same image is in two splits, so that the evaluation is too good: "
        "'c' (train) and 'e' (test); 'f' (validation) and 'g' (train)",
    ]


def test_many_copies_are_counted_and_few_named() -> None:
    sentences = describe_copies(copy(1, f"{'x' * 500}{number}") for number in range(1000))

    assert sentences[0].startswith("999 images are exact copies of another one: '…xxx")
    assert sentences[0].endswith("; and 996 more")
    assert len(sentences[0]) < 1000
    assert describe_copies([]) == []


@pytest.mark.feature("D5")
def test_file_in_two_classes_and_splits_is_named_in_the_warnings(
    prepare: Prepare, write_image: WriteImage, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    for place, folder in enumerate(("train/rose", "train/tulip", "validation/rose", "validation/tulip")):
        for number in range(3):
            write_image(source / folder / f"{number}.png", seed=10 * place + number)
    shutil.copy(source / "train/rose/0.png", source / "validation/tulip/copy.png")
    result = prepare(source, rules={"minImagesPerClass": 2})

    assert result.message["warnings"][1:] == [
        "1 image is an exact copy of another one",
        "the same image is in two classes, so that one label must be wrong: "
        "'train/rose/0.png' (rose) and 'validation/tulip/copy.png' (tulip)",
        "the same image is in two splits, so that the evaluation is too good: "
        "'train/rose/0.png' (train) and 'validation/tulip/copy.png' (validation)",
    ]
