"""The drawn pictures of the walk-throughs: the layouts that users have, and the same pictures for everybody."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

DRAW = Path(__file__).resolve().parents[3] / "examples" / "pictures" / "draw.py"
FLOWERS = ("daisy", "dandelion", "roses", "sunflowers", "tulips")


def draw(folder: Path, *words: str, name: str = "flowers") -> dict[str, bytes]:
    command = [sys.executable, str(DRAW), name, str(folder), "--images=5", "--size=32", *words]
    subprocess.run(command, check=True, capture_output=True)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_pictures_depend_on_the_arguments_and_the_seed_alone(tmp_path: Path) -> None:
    first, again, others = draw(tmp_path / "a"), draw(tmp_path / "b"), draw(tmp_path / "c", "--seed=1")
    assert first == again
    assert first.keys() == others.keys()
    assert not set(first.values()) & set(others.values())


@pytest.mark.parametrize(
    ("layout", "files"),
    [
        ("folders", {f"{name}/{n}.jpg" for name in FLOWERS for n in range(1, 6)}),
        ("split", {f"{'train' if n % 5 else 'validation'}/{name}/{n}.jpg" for name in FLOWERS for n in range(1, 6)}),
        ("image-text", {f"{n}.{ending}" for n in range(1, 26) for ending in ("jpg", "txt")}),
        ("zip", {"flowers.zip"}),
    ],
)
def test_each_layout_has_its_files(layout: str, files: set[str], tmp_path: Path) -> None:
    assert draw(tmp_path, f"--layout={layout}").keys() == files


def test_a_text_file_names_the_class_of_its_picture(tmp_path: Path) -> None:
    files = draw(tmp_path, "--layout=image-text")
    assert [files[f"{n}.txt"].decode().strip() for n in (1, 6, 25)] == ["daisy", "dandelion", "tulips"]


def test_dishes_have_names_with_a_slash_in_the_zip_too(tmp_path: Path) -> None:
    draw(tmp_path, "--layout=zip", name="food")
    assert "美食/凉皮/1.jpg" in zipfile.ZipFile(tmp_path / "food.zip").namelist()
