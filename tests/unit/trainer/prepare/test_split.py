"""The side of each image: by its content, and as it was in the version before."""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bloomery_trainer.config import Split
from bloomery_trainer.prepare.earlier_versions import EarlierSplit
from bloomery_trainer.prepare.file_table import Assignment, FileTable, Inspection
from bloomery_trainer.prepare.split import split_files
from bloomery_trainer.storage import StoredFile
from tests.unit.trainer.prepare.results import read_manifest, version_folder

Prepare = Callable[..., Any]
WriteImage = Callable[..., None]
Sides = dict[bytes, str]
Images = Mapping[str, tuple[str, str | None, bytes]]
"""By path: class, split of the folder, and content."""


def split_images(images: Images, folder: Path, earlier: Sides, **split: Any) -> Sides:
    """Return the side of each content that a table of these images gives it."""
    files = FileTable(folder / "index.sqlite", seed=split.get("seed", 0))
    files.listing.add(0, (StoredFile(path, 1, "") for path in images))
    files.listing.assign(
        Assignment(file.id, images[file.path][0], images[file.path][1]) for file in list(files.listing.files(0))
    )
    files.inspection.record(
        Inspection(0, path, 1, "", hashlib.sha256(content).digest(), "png", None, None, None)
        for path, (_, _, content) in images.items()
    )
    split_files(files, Split.model_validate(split), lambda: EarlierSplit({}, earlier.items))
    files.splits.fill_classes()
    sides = dict(files.splits.sides())
    files.close()
    (folder / "index.sqlite").unlink()
    return sides


def read_sides(message: dict[str, Any]) -> dict[str, str]:
    """Return the split of each key of a version, from its shards."""
    sides = {}
    for split, shards in read_manifest(message)["shards"].items():
        for shard in shards:
            with tarfile.open(version_folder(message) / shard["name"]) as tar:
                for member in tar:
                    file = tar.extractfile(member)
                    if member.name.endswith(".txt") and file is not None:
                        sides[file.read().decode().rpartition("/")[2]] = split
    return sides


@pytest.mark.feature("D2")
def test_share_of_many_images_is_held_out(tmp_path: Path) -> None:
    images = {f"a/{number}": (f"class {number % 3}", None, f"{number}".encode()) for number in range(5000)}
    counts = Counter(split_images(images, tmp_path, {}, validation=0.2, test=0.1).values())

    assert counts["validation"] == pytest.approx(1000, abs=90)
    assert counts["test"] == pytest.approx(500, abs=70)


@pytest.mark.feature("D17")
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_no_image_moves_when_images_are_added_renamed_or_moved(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Show it over many layouts: each version appends, leaves out, renames classes, and changes the shares."""
    folder = tmp_path_factory.mktemp("split")
    contents = data.draw(st.lists(st.binary(min_size=1, max_size=4), min_size=20, max_size=60, unique=True))
    classes = st.sampled_from(["a", "b", "c"])
    held_out = data.draw(st.sampled_from([(), ("validation",), ("validation", "test")]))
    given_split = st.sampled_from([None, "train", *held_out]) if held_out else st.none()
    images = {f"{i}": (data.draw(classes), data.draw(given_split), content) for i, content in enumerate(contents)}
    sides: Sides = {}
    for version in range(3):
        appended = {
            f"new{version}-{number}": (data.draw(classes), None, f"new {version} {number}".encode())
            for number in range(len(images) // 10)
        }
        removed = set(data.draw(st.lists(st.sampled_from(sorted(images)), max_size=3)))
        renames = data.draw(st.fixed_dictionaries(dict.fromkeys("abc", classes)))
        images = {
            path: (renames[name], split, content)
            for path, (name, split, content) in {**images, **appended}.items()
            if path not in removed
        }
        seed, share = data.draw(st.integers(0, 3)), data.draw(st.sampled_from([0.2, 0.3]))
        before = sides
        sides = split_images(images, folder, before, validation=share, test=0.1, seed=seed)
        lonely = _contents_of_lonely_classes(images, sides)
        moved = {sha for sha, side in before.items() if sides[sha] != side}
        assert moved <= lonely


def _contents_of_lonely_classes(images: Images, sides: Sides) -> set[bytes]:
    """Return the contents of classes with a single image on a side: such an image may have had to move there."""
    members: dict[tuple[str, str], set[bytes]] = {}
    for name, _, content in images.values():
        sha = hashlib.sha256(content).digest()
        members.setdefault((name, sides[sha]), set()).add(sha)
    return {sha for (_, _), group in members.items() if len(group) == 1 for sha in group}


@pytest.mark.feature("D17")
@pytest.mark.parametrize("layout", ["Folders", "TrainOnly", "ImageText"])
def test_appending_a_tenth_moves_no_image_in_any_layout(
    prepare: Prepare, write_image: WriteImage, tmp_path: Path, layout: str
) -> None:
    def write(first: int, last: int) -> None:
        for number in range(first, last):
            name = "ab"[number % 2]
            place = {"Folders": name, "TrainOnly": f"train/{name}", "ImageText": "."}[layout]
            write_image(tmp_path / "source" / place / f"{number}.png", seed=number)
            if layout == "ImageText":
                (tmp_path / "source" / f"{number}.txt").write_text(name)

    write(0, 80)
    before = prepare(tmp_path / "source")
    write(80, 88)
    after = prepare(tmp_path / "source")
    without_history = prepare(tmp_path / "source", store="other")

    sides = read_sides(after.message)
    assert read_sides(before.message).items() <= sides.items()
    assert len(sides) == 88
    assert without_history.message["version"] == after.message["version"]


@pytest.mark.feature("D17")
def test_copies_and_renamed_files_are_on_the_same_side(prepare: Prepare, flowers: Path) -> None:
    for path in list((flowers / "roses").iterdir()):
        shutil.copy(path, path.with_stem(f"copy-{path.stem}"))
    sides = read_sides(prepare(flowers).message)

    assert all(sides[f"copy-{number}.png"] == sides[f"{number}.png"] for number in range(25))


@pytest.mark.feature("D17")
def test_trained_images_stay_trained_when_seed_and_share_change(prepare: Prepare, flowers: Path) -> None:
    before = read_sides(prepare(flowers).message)
    result = prepare(flowers, split={"seed": 7, "validation": 0.5})

    assert read_sides(result.message) == before
    assert "45 images keep the side" in " ".join(result.message["warnings"])


@pytest.mark.feature("D17")
def test_image_that_was_left_out_for_a_version_keeps_its_side(prepare: Prepare, flowers: Path) -> None:
    before = read_sides(prepare(flowers).message)
    prepare(flowers, exclude=["roses/1*"])
    after = prepare(flowers, split={"seed": 9})

    assert read_sides(after.message) == before


@pytest.mark.feature("D17")
def test_sides_of_a_version_without_a_list_are_read_from_its_shards(prepare: Prepare, flowers: Path) -> None:
    """Versions of earlier releases have no splits.txt, and their sides are not those of the digests."""
    first = prepare(flowers, split={"seed": 5})
    folder = version_folder(first.message)
    (folder / "splits.txt").unlink()
    before = read_sides(first.message)
    after = prepare(flowers, split={"seed": 0})

    assert read_sides(after.message) == before


@pytest.mark.feature("D17")
def test_class_without_held_out_image_gives_its_lowest_rank(tmp_path: Path) -> None:
    images = {f"{number}": ("a", None, f"{number}".encode()) for number in range(8)}
    sides = split_images(images, tmp_path, {}, validation=0.001)
    ranks = {sha: hashlib.sha256(b"split0" + sha).digest() for sha in sides}

    assert [sha for sha, side in sides.items() if side == "validation"] == [min(ranks, key=lambda sha: ranks[sha])]


@pytest.mark.feature("D17")
def test_class_always_keeps_an_image_to_train_with(tmp_path: Path) -> None:
    images = {f"{number}": (f"class {number % 30}", None, f"{number}".encode()) for number in range(60)}
    sides = split_images(images, tmp_path, {}, validation=0.9)

    for number in range(30):
        own = [sides[hashlib.sha256(f"{image}".encode()).digest()] for image in (number, number + 30)]
        assert sorted(own) == ["train", "validation"]


@pytest.mark.feature("D13")
def test_test_set_is_held_out_beside_the_validation_set(prepare: Prepare, flowers: Path) -> None:
    result = prepare(flowers, split={"validation": 0.2, "test": 0.2, "seed": 3})
    totals = [sum(entry[split] for entry in result.message["classes"]) for split in ("train", "validation", "test")]

    assert sum(totals) == 45
    assert min(totals) >= 3
    assert set(read_manifest(result.message)["shards"]) == {"train", "validation", "test"}


@pytest.mark.feature("D17")
def test_list_of_sides_has_a_line_for_each_image(prepare: Prepare, flowers: Path) -> None:
    folder = version_folder(prepare(flowers).message)
    lines = dict(line.split() for line in (folder / "splits.txt").read_text().splitlines())
    digests = {hashlib.sha256(path.read_bytes()).hexdigest() for path in flowers.rglob("*.*")}

    assert set(lines) == digests
    assert (
        json.loads((folder / "manifest.json").read_bytes())["counts"]["roses"]["train"]
        <= Counter(lines.values())["train"]
    )
