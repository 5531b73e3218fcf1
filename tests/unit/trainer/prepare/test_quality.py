"""Copies, near copies and odd pictures of a dataset: left out, counted, listed and shown."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from tests.unit.trainer.prepare.results import ignored_reasons, read_manifest, version_folder

Prepare = Callable[..., Any]
RULES = {"minImagesPerClass": 2}


def write_scene(path: Path, seed: int, **options: Any) -> Image.Image:
    """Write a picture with large and small shapes, unlike those of other seeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    scene = np.zeros((160, 200, 3))
    for size in (2, 4, 8, 16):
        noise = Image.fromarray(random.integers(0, 256, (size, size, 3), dtype=np.uint8))
        scene += np.asarray(noise.resize((200, 160), Image.Resampling.BICUBIC)) / 4
    image = Image.fromarray(scene.clip(0, 255).astype(np.uint8))
    image.save(path, **options)
    return image


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Split folders of two classes: 4 images each to train with, and 2 to validate."""
    folder = tmp_path / "scenes"
    for place, name in enumerate(("train/rose", "train/tulip", "validation/rose", "validation/tulip")):
        for number in range(4 if place < 2 else 2):
            write_scene(folder / name / f"{number}.png", 10 * place + number)
    return folder


def read_findings(message: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    lines = (version_folder(message) / "quality.jsonl").read_text(encoding="utf-8").splitlines()
    return [finding for finding in map(json.loads, lines) if finding["kind"] == kind]


def listed_keys(message: dict[str, Any], kind: str) -> list[list[str]]:
    return [[image["key"] for image in finding["images"]] for finding in read_findings(message, kind)]


@pytest.mark.feature("D14")
def test_image_in_two_classes_leaves_all_splits(prepare: Prepare, scenes: Path) -> None:
    shutil.copy(scenes / "train/rose/0.png", scenes / "validation/tulip/copy.png")
    result = prepare(scenes, rules=RULES)

    assert ignored_reasons(result.message) == {
        "train/rose/0.png": "LabelConflict", "validation/tulip/copy.png": "LabelConflict",
    }  # fmt: skip
    assert result.message["quality"] == {"copies": 1, "nearCopies": 0, "conflicts": 1, "leaks": 1}
    assert "the same image is in two classes" in result.message["warnings"][2]
    [finding] = read_findings(result.message, "Copies")
    assert finding["crossesClasses"] and finding["crossesSplits"]
    assert finding["images"][0] == {
        "key": "train/rose/0.png", "class": "rose", "split": "train", "leftOut": "LabelConflict",
    }  # fmt: skip


@pytest.mark.feature("D14")
@pytest.mark.parametrize(("leaks", "trained"), [(None, 4), ("DropExact", 4), ("Keep", 5)])
def test_training_copy_of_held_out_image_is_left_out_unless_kept(
    prepare: Prepare, scenes: Path, leaks: str | None, trained: int
) -> None:
    shutil.copy(scenes / "validation/rose/0.png", scenes / "train/rose/copy.png")
    result = prepare(scenes, rules={**RULES, **({"leaks": leaks} if leaks else {})})

    assert result.message["classes"][0] == {"name": "rose", "train": trained, "validation": 2, "test": 0}
    assert result.message["ignored"] == ({} if leaks == "Keep" else {"Leak": 1})
    assert result.message["quality"]["leaks"] == 1


@pytest.mark.feature("D14")
@pytest.mark.parametrize(("leaks", "trained"), [("DropExact", 5), ("DropNear", 4)])
def test_near_copy_across_the_split_warns_or_is_left_out(
    prepare: Prepare, scenes: Path, leaks: str, trained: int
) -> None:
    image = Image.open(scenes / "validation/rose/0.png")
    image.resize((150, 120)).save(scenes / "train/rose/small.jpg", quality=60)
    result = prepare(scenes, rules={**RULES, "leaks": leaks})

    assert result.message["classes"][0]["train"] == trained
    assert result.message["quality"] == {"copies": 0, "nearCopies": 1, "conflicts": 0, "leaks": 0}
    assert any("look like held-out ones" in warning for warning in result.message["warnings"])
    assert listed_keys(result.message, "NearCopies") == [["train/rose/small.jpg", "validation/rose/0.png"]]


@pytest.mark.feature("D14")
@pytest.mark.parametrize("held_out", [1, 6, 15])
def test_each_training_frame_of_a_held_out_scene_is_left_out(prepare: Prepare, scenes: Path, held_out: int) -> None:
    generator = np.random.default_rng(0)
    scene = np.asarray(Image.effect_noise((24, 18), 90).resize((320, 240), Image.Resampling.BICUBIC), np.float32)
    for number in range(30):
        frame = (scene + generator.normal(0, 3, scene.shape)).clip(0, 255).astype(np.uint8)
        split = "validation" if number < held_out else "train"
        Image.fromarray(frame).save(scenes / split / "rose" / f"frame{number}.png")

    result = prepare(scenes, rules={**RULES, "leaks": "DropNear"})

    assert result.message["ignored"] == {"NearLeak": 30 - held_out}


@pytest.mark.feature("D14")
def test_near_copy_within_training_gives_no_warning(prepare: Prepare, scenes: Path) -> None:
    Image.open(scenes / "train/rose/0.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(
        scenes / "train/rose/mirrored.png"
    )
    result = prepare(scenes, rules=RULES)

    assert result.message["quality"]["nearCopies"] == 1
    assert not any("look like" in warning for warning in result.message["warnings"])


@pytest.mark.feature("D14")
def test_without_rules_copies_stay_and_are_listed(prepare: Prepare, scenes: Path) -> None:
    shutil.copy(scenes / "train/rose/0.png", scenes / "validation/tulip/copy.png")
    result = prepare(scenes, rules={"check": False})

    assert result.message["images"] == 13
    assert result.message["quality"]["conflicts"] == 1


@pytest.mark.feature("D14")
def test_class_whose_training_images_are_all_copies_is_refused(prepare: Prepare, scenes: Path) -> None:
    shutil.rmtree(scenes / "train/rose")
    shutil.copytree(scenes / "validation/rose", scenes / "train/rose")
    result = prepare(scenes, rules=RULES)

    assert (result.code, result.reason) == (3, "NoTraining")
    assert "'rose'" in result.sentence and "rules.leaks" in result.sentence


@pytest.mark.feature("D14")
def test_report_shows_groups_side_by_side_and_escapes_names(prepare: Prepare, scenes: Path) -> None:
    shutil.copy(scenes / "train/rose/0.png", scenes / "train/rose/<b>.png")
    page = (version_folder(prepare(scenes, rules=RULES).message) / "report.html").read_text(encoding="utf-8")
    section = page.partition("<h2>Copies</h2>")[2].partition("<h2>")[0]

    assert section.count("data:image/jpeg;base64,") == 2
    assert "&lt;b&gt;.png" in section and "<b>.png" not in section


@pytest.mark.feature("D14")
def test_report_with_hundreds_of_groups_stays_small(prepare: Prepare, scenes: Path) -> None:
    for number in range(200):
        write_scene(scenes / "train/rose" / f"x{number}.png", 1000 + number)
        shutil.copy(scenes / "train/rose" / f"x{number}.png", scenes / "train/rose" / f"y{number}.png")
    result = prepare(scenes, rules=RULES)
    page = (version_folder(result.message) / "report.html").read_text(encoding="utf-8")

    assert page.count("<figure>") == 40
    assert "The first 40 of 200; quality.jsonl" in page
    assert len(page) < 1_000_000


@pytest.mark.feature("D15")
def test_odd_pictures_are_shown_with_scores_and_stay(prepare: Prepare, scenes: Path) -> None:
    folder = scenes / "train/rose"
    Image.new("RGB", (200, 160), (90, 120, 60)).save(folder / "blank.png")
    image = write_scene(folder / "x.png", 500)
    image.point(lambda value: value // 4).save(folder / "dark.png")
    image.filter(ImageFilter.GaussianBlur(14)).save(folder / "blurred.png")
    for name, background in (("bright", "white"), ("line", (130, 130, 130))):
        line = Image.new("RGB", (200, 160), background)
        line.paste("black", (60, 40, 70, 120))
        line.save(folder / f"{name}.png")
    result = prepare(scenes, rules=RULES)
    issues = {
        Path(finding["images"][0]["key"]).stem: finding["issues"] for finding in read_findings(result.message, "Odd")
    }

    assert {name: next(iter(scores)) for name, scores in issues.items()} == {
        "blank": "Blank", "dark": "Dark", "bright": "Bright", "blurred": "Blurred", "line": "LowInformation",
    }  # fmt: skip
    assert issues["blank"] == {"Blank": 0.0}
    assert result.message["classes"][0]["train"] == 10
    page = (version_folder(result.message) / "report.html").read_text(encoding="utf-8")
    section = page.partition("<h2>Odd pictures</h2>")[2].partition("<h2>")[0]
    assert "Blank 0.000" in section and section.count("data:image/jpeg;base64,") == 5


@pytest.mark.feature("D14")
def test_version_of_an_earlier_release_gets_its_quality_and_keeps_its_shards(prepare: Prepare, scenes: Path) -> None:
    first = prepare(scenes, rules=RULES)
    folder = version_folder(first.message)
    manifest = read_manifest(first.message)
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.tar")}
    (folder / "manifest.json").write_text(json.dumps({k: v for k, v in manifest.items() if k != "quality"}))
    (folder / "quality.jsonl").unlink()
    second = prepare(scenes, rules=RULES)

    assert second == first
    assert (folder / "quality.jsonl").exists()
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("*.tar")} == before


@pytest.mark.feature("D14")
def test_rule_for_leaks_alone_makes_no_new_version(prepare: Prepare, scenes: Path) -> None:
    versions = {prepare(scenes, rules={**RULES, "leaks": leaks}).message["version"] for leaks in ("Keep", "DropExact")}

    assert len(versions) == 1
