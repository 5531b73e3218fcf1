"""A training whose dataset holds images that can no longer be decoded."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def damage(digits: dict[str, str], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """A copy of the digits' dataset in which the first images of each split hold no pixels any more."""

    def damaged_copy(**images: int) -> dict[str, Any]:
        source, target = Path(digits["uri"].removeprefix("file://")), tmp_path / "damaged"
        target.mkdir()
        for path in source.iterdir():
            (target / path.name).write_bytes(path.read_bytes())
        manifest = json.loads((source / "manifest.json").read_text(encoding="utf-8"))
        for split, shards in manifest["shards"].items():
            shards[0]["sha256"] = _without_pixels(target / shards[0]["name"], images.get(split, 0))
        (target / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        return {**digits, "uri": f"file://{target}"}

    return damaged_copy


def _without_pixels(shard: Path, images: int) -> str:
    """Overwrites the pixels of the first images, and returns the file's digest."""
    with tarfile.open(shard) as tar:
        members = [member for member in tar if member.name.endswith(".png")][:images]
    content = bytearray(shard.read_bytes())
    for member in members:
        content[member.offset_data + 60 : member.offset_data + member.size] = bytes(member.size - 60)
    shard.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("augmentation", ["None", "Light"])
def test_images_that_cannot_be_decoded_are_left_out_by_name(
    train: Callable[..., Any], damage: Callable[..., dict[str, Any]], tmp_path: Path, augmentation: str
) -> None:
    dataset, output = damage(train=2, validation=3), tmp_path / "output"
    hyperparameters = {"augmentation": augmentation, "maxSteps": 7}
    ended = train(hyperparameters, datasets=[dataset], output={"uri": f"file://{output}"})

    assert ended.code == 0, ended.message
    (note,) = (note for note in ended.message["notes"] if "left out" in note)
    assert re.fullmatch(r"5 images could not be read and were left out: (\S+/\d+\.png(, |$)){5}", note)
    with (output / "predictions.csv").open(encoding="utf-8", newline="") as file:
        predicted = {row["image"] for row in csv.DictReader(file)}
    assert len(predicted) == 21
    assert not predicted & set(note.split(": ")[1].split(", "))


def test_int8_is_calibrated_without_images_that_cannot_be_decoded(
    train: Callable[..., Any], damage: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    output = {"uri": f"file://{tmp_path}/output", "quantization": "Int8"}
    ended = train(datasets=[damage(train=2)], output=output)

    assert ended.code == 0, ended.message


def test_too_many_images_that_cannot_be_decoded_are_bad_data(
    train: Callable[..., Any], damage: Callable[..., dict[str, Any]]
) -> None:
    ended = train(datasets=[damage(train=11)])

    assert (ended.code, ended.reason) == (3, "UnreadableImages")
    assert ended.sentence.startswith("11 of 96 images cannot be decoded, and at most 10 may be left out: ")
