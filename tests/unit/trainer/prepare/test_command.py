"""The ``prepare`` command: folders of images in, a dataset version or an error message out."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.unit.trainer.prepare.results import count_images, count_split, ignored_reasons, read_manifest, version_folder

Prepare = Callable[..., Any]
WriteImage = Callable[..., None]


def ignored_by_name(message: dict[str, Any]) -> dict[str, str]:
    return {Path(entry["key"]).name: entry["reason"] for entry in read_manifest(message)["ignored"]}


@pytest.mark.feature("D2")
def test_class_folders_give_a_version_with_held_out_images(prepare: Prepare, flowers: Path, tmp_path: Path) -> None:
    result = prepare(flowers)

    assert result.code == 0
    assert result.message["images"] == 45
    assert count_images(result.message) == {"roses": 25, "tulips": 20}
    assert all(1 <= entry["validation"] < entry["train"] for entry in result.message["classes"])
    assert result.message["uri"] == f"file://{tmp_path}/store/{result.message['version']}"


@pytest.mark.feature("D9")
def test_shards_hold_every_image_unchanged(prepare: Prepare, flowers: Path) -> None:
    result = prepare(flowers, shards={"images": 15})
    manifest = read_manifest(result.message)
    folder = Path(result.message["uri"].removeprefix("file://"))

    train = count_split(result.message, "train")
    assert [shard["images"] for shard in manifest["shards"]["train"]] == [15, 15, train - 30]
    packed_files = {}
    for shard in [*manifest["shards"]["train"], *manifest["shards"]["validation"]]:
        assert (folder / shard["name"]).stat().st_size == shard["bytes"]
        with tarfile.open(folder / shard["name"], "r:") as tar:
            files = {m.name: file.read() for m in tar if (file := tar.extractfile(m)) is not None}
        for name in (name for name in files if name.endswith((".png", ".jpg"))):
            index, ending = name.split(".")
            assert len(index) == 8
            key = files[f"{index}.txt"].decode()
            assert manifest["classes"][int(files[f"{index}.cls"])] == key.split("/")[0]
            assert key.endswith(ending)
            packed_files[key] = files[name]
    assert packed_files == {str(p.relative_to(flowers)): p.read_bytes() for p in flowers.rglob("*.*")}


@pytest.mark.feature("D9")
def test_each_shard_mixes_the_classes(prepare: Prepare, flowers: Path) -> None:
    result = prepare(flowers, shards={"images": 18})
    folder = Path(result.message["uri"].removeprefix("file://"))
    with tarfile.open(folder / "train-00000.tar", "r:") as tar:
        classes = {f.read() for m in tar if m.name.endswith(".cls") and (f := tar.extractfile(m)) is not None}

    assert classes == {b"0", b"1"}


@pytest.mark.feature("D10")
def test_same_images_give_same_version_and_write_nothing(prepare: Prepare, flowers: Path, tmp_path: Path) -> None:
    first = prepare(flowers)
    written = {p: p.stat().st_mtime_ns for p in (tmp_path / "store").rglob("*")}
    (flowers / "roses" / "0.png").rename(flowers / "roses" / "renamed.png")
    second = prepare(flowers)

    assert second == first
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "store").rglob("*")} == written


@pytest.mark.feature("D10")
def test_other_images_or_settings_give_another_version(
    prepare: Prepare, write_image: WriteImage, flowers: Path, tmp_path: Path
) -> None:
    def version(**changes: Any) -> str:
        return str(prepare(flowers, **changes).message["version"])

    versions = [version(), version(split={"seed": 1}), version(shards={"images": 7})]
    write_image(flowers / "roses" / "new.png", seed=999)
    versions.append(version())

    assert len(set(versions)) == 4
    assert len(list((tmp_path / "store").iterdir())) == 4


def test_same_images_with_other_files_beside_them_say_what_is_new(prepare: Prepare, flowers: Path) -> None:
    first = prepare(flowers)
    (flowers / "roses" / "damaged.jpg").write_bytes(b"no image")

    move, exclude = [{"image": "roses/99.png", "class": "tulips"}], ["rose/1.png"]
    second = prepare(flowers, move=move, exclude=exclude)

    assert second.message["version"] == first.message["version"]
    assert second.message["ignored"] == first.message["ignored"] | {"Corrupt": 1}
    warnings = " ".join(second.message["warnings"])
    assert "roses/99.png" in warnings and "rose/1.png" in warnings
    manifest = json.loads(Path(second.message["uri"].removeprefix("file://"), "manifest.json").read_text())
    assert (manifest["warnings"], manifest["ignored"][-1]["key"]) == (second.message["warnings"], "roses/damaged.jpg")


def test_shards_of_a_version_are_the_same_bytes_in_any_store(prepare: Prepare, flowers: Path) -> None:
    manifests = [read_manifest(prepare(flowers, store=name).message) for name in ("a", "b")]

    assert manifests[0]["shards"] == manifests[1]["shards"]


def test_incomplete_version_is_written_again(prepare: Prepare, flowers: Path, tmp_path: Path) -> None:
    first = prepare(flowers)
    folder = tmp_path / "store" / first.message["version"]
    whole = (folder / "train-00000.tar").read_bytes()
    (folder / "manifest.json").unlink()
    (folder / "train-00000.tar").write_bytes(b"half")
    second = prepare(flowers)

    assert second == first
    assert (folder / "train-00000.tar").read_bytes() == whole


@pytest.mark.feature("D5")
def test_images_that_break_a_rule_are_ignored_and_listed(
    prepare: Prepare, write_image: WriteImage, flowers: Path
) -> None:
    roses = flowers / "roses"
    write_image(roses / "small.png", size=(30, 200))
    write_image(roses / "wide.png", size=(200, 50))
    write_image(roses / "large.jpg", size=(4096, 1500))
    write_image(roses / "animation.gif")
    write_image(roses / "hidden.gif")
    (roses / "hidden.gif").rename(roses / "hidden.jpg")
    whole = io.BytesIO()
    Image.effect_noise((300, 300), 90).convert("RGB").save(whole, "JPEG")
    (roses / "cut.jpg").write_bytes(whole.getvalue()[:-2000])
    (roses / "text.png").write_text("no image")
    (roses / "empty.png").write_bytes(b"")
    (roses / "heavy.bmp").write_bytes(b"x" * 5_000_000)
    (roses / "notes.txt").write_text("no image")
    write_image(flowers / "loose.png")
    result = prepare(flowers)

    assert result.code == 0
    assert result.message["images"] == 45
    assert result.message["ignored"] == {
        "AspectRatio": 1, "Corrupt": 3, "Format": 3, "NotInFolder": 1, "TooLarge": 1, "TooManyBytes": 1, "TooSmall": 1,
    }  # fmt: skip
    assert ignored_by_name(result.message) == {
        "small.png": "TooSmall", "wide.png": "AspectRatio", "large.jpg": "TooLarge", "animation.gif": "Format",
        "hidden.jpg": "Format", "cut.jpg": "Corrupt", "text.png": "Corrupt", "empty.png": "Corrupt",
        "heavy.bmp": "TooManyBytes", "notes.txt": "Format", "loose.png": "NotInFolder",
    }  # fmt: skip


def test_images_at_the_limits_are_used(prepare: Prepare, write_image: WriteImage, flowers: Path) -> None:
    write_image(flowers / "roses" / "narrow.png", size=(31, 93))
    write_image(flowers / "roses" / "long.jpg", size=(4095, 1365))
    result = prepare(flowers)

    assert result.message["images"] == 47
    assert result.message["ignored"] == {}


def test_without_rules_only_unreadable_images_are_ignored(
    prepare: Prepare, write_image: WriteImage, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    for number in range(6):
        write_image(source / "a" / f"{number}.gif", size=(8, 80), seed=number)
        write_image(source / "b" / f"{number}.png", size=(9, 9), seed=50 + number)
    (source / "a" / "broken.jpg").write_bytes(b"no image")
    result = prepare(source, rules={"check": False})

    assert result.code == 0
    assert result.message["images"] == 12
    assert result.message["ignored"] == {"Corrupt": 1}


@pytest.mark.feature("D5")
def test_content_decides_whatever_a_download_named_the_file(
    prepare: Prepare, write_image: WriteImage, flowers: Path
) -> None:
    """Use what the server answers: JPEG, PNG, BMP and WebP, under any of their names or none."""
    names = {"1.jfif": "jpg", "2.webp": "webp", "3.jpg?w=300": "jpg", "4": "png", "5.jpg": "webp", "6.jpe": "jpg"}
    for number, (name, extension) in enumerate(names.items()):
        write_image(flowers / "roses" / f"x.{extension}", seed=900 + number)
        (flowers / "roses" / f"x.{extension}").rename(flowers / "roses" / name)
    (flowers / "roses" / "README").write_text("no image")
    result = prepare(flowers)
    strict = prepare(flowers, rules={"formats": ["jpg", "jpeg", "png", "bmp"]})

    assert result.message["images"] == 45 + len(names)
    assert ignored_reasons(result.message) == {"roses/README": "Format"}
    assert {Path(key).name for key in ignored_reasons(strict.message)} == {
        "1.jfif", "2.webp", "5.jpg", "6.jpe", "README",
    }  # fmt: skip


def test_png_named_jpg_gets_its_true_extension(prepare: Prepare, flowers: Path) -> None:
    for path in list((flowers / "roses").iterdir()):
        path.rename(path.with_suffix(".JPG"))
    result = prepare(flowers)
    folder = Path(result.message["uri"].removeprefix("file://"))
    with tarfile.open(folder / "validation-00000.tar", "r:") as tar:
        endings = {name.rpartition(".")[2] for name in tar.getnames()}

    assert result.message["images"] == 45
    assert endings == {"png", "jpg", "cls", "txt"}


@pytest.mark.feature("D5")
def test_class_with_too_few_images_is_named_with_its_count(prepare: Prepare, flowers: Path, tmp_path: Path) -> None:
    for number in range(12):
        (flowers / "tulips" / f"{number}.jpg").unlink()
    (flowers / "tulips" / "12.jpg").write_bytes(b"broken")
    result = prepare(flowers)

    assert (result.code, result.reason) == (3, "TooFewImages")
    assert result.sentence == (
        "class 'tulips' has 7 images (1 Corrupt ignored); a class needs at least 20 (rules.minImagesPerClass)"
    )
    assert not list((tmp_path / "store").iterdir())


def test_class_without_usable_images_is_reported(prepare: Prepare, write_image: WriteImage, flowers: Path) -> None:
    write_image(flowers / "lilies" / "1.gif")
    result = prepare(flowers)

    assert result.sentence.startswith("class 'lilies' has 0 images (1 Format ignored)")


@pytest.mark.feature("D5")
def test_single_class_is_refused(prepare: Prepare, flowers: Path) -> None:
    shutil.rmtree(flowers / "tulips")
    result = prepare(flowers)

    assert (result.code, result.reason) == (3, "TooFewClasses")
    assert result.sentence == "only the class 'roses' was found; at least 2 classes are needed"


@pytest.mark.feature("D5")
def test_too_many_classes_are_refused(prepare: Prepare, flowers: Path) -> None:
    shutil.copytree(flowers / "roses", flowers / "lilies")
    result = prepare(flowers, rules={"maxClasses": 2})

    assert (result.code, result.sentence) == (3, "there are 3 classes; rules.maxClasses allows 2")


@pytest.mark.feature("D5")
def test_few_images_and_duplicates_give_warnings(prepare: Prepare, write_image: WriteImage, flowers: Path) -> None:
    for number in range(100):
        write_image(flowers / "roses" / f"more{number}.png", seed=500 + number)
    shutil.copy(flowers / "roses" / "0.png", flowers / "roses" / "copy.png")
    result = prepare(flowers)

    assert result.message["warnings"] == [
        "under 100 images a class is hard to learn: 'tulips' (20)",
        "1 image is an exact copy of another one: 'roses/0.png' and 'roses/copy.png'",
    ]


@pytest.mark.feature("D5")
@pytest.mark.parametrize("name", [b"a\nb.png", b"gro\xdf.png"])
def test_file_name_that_is_no_text_leaves_that_file_out(prepare: Prepare, flowers: Path, name: bytes) -> None:
    (flowers / "roses" / "0.png").rename(flowers / "roses" / os.fsdecode(name))
    result = prepare(flowers)

    assert (result.code, result.message["images"]) == (0, 44)
    assert result.message["ignored"] == {"BadName": 1}


def test_missing_source_is_bad_configuration(prepare: Prepare, tmp_path: Path) -> None:
    result = prepare(tmp_path / "nowhere")

    assert (result.code, result.sentence) == (2, f"there is no folder file://{tmp_path}/nowhere")


def test_unreachable_store_can_be_retried(prepare: Prepare, flowers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    result = prepare(flowers, source={"uri": "s3://flowers/raw"})

    assert (result.code, result.reason) == (1, "StoreUnreachable")
    assert result.sentence == "the store of s3://flowers/raw does not answer: http://127.0.0.1:1"


def test_endpoint_without_scheme_is_bad_configuration(
    prepare: Prepare, flowers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_AWS_ENDPOINT_URL", "minio:9000")
    result = prepare(flowers, source={"uri": "s3://flowers/raw"})

    assert (result.code, result.reason) == (2, "InvalidEndpoint")


def test_descriptions_and_download_limit_give_the_same_version(prepare: Prepare, flowers: Path) -> None:
    before = prepare(flowers)
    after = prepare(flowers, displayName="Blumen", description="…", rules={"maxArchiveBytes": 1})

    assert after.message["version"] == before.message["version"]


@pytest.mark.feature("D5")
def test_manifest_lists_first_thousand_ignored_files(prepare: Prepare, flowers: Path) -> None:
    for number in range(1500):
        (flowers / "roses" / f"{number}.gif").write_bytes(b"x")
    result = prepare(flowers)
    manifest = json.loads((version_folder(result.message) / "manifest.json").read_bytes())

    assert manifest["ignoredCounts"] == {"Format": 1500}
    assert len(manifest["ignored"]) == 1000
    assert len(ignored_reasons(result.message)) == 1500
