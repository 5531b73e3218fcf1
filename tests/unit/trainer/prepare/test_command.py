"""What a user gets from `prepare`: folders of images in, a dataset version or a sentence out."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bloomery_trainer.config import Rules
from bloomery_trainer.prepare.rules import Broken, by_content
from bloomery_trainer.prepare.split import share_of

Prepare = Callable[..., Any]
WriteImage = Callable[..., None]


def manifest_of(message: dict[str, Any]) -> dict[str, Any]:
    path = Path(str(message["uri"]).removeprefix("file://")) / "manifest.json"
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def ignored_by_name(message: dict[str, Any]) -> dict[str, str]:
    return {Path(entry["key"]).name: entry["reason"] for entry in manifest_of(message)["ignored"]}


@pytest.mark.feature("D2")
def test_class_folders_become_a_version_with_a_share_of_each_class_held_out(
    prepare: Prepare, flowers: Path, tmp_path: Path
) -> None:
    ended = prepare(flowers)

    assert ended.code == 0
    assert ended.message["images"] == 45
    assert ended.message["classes"] == [
        {"name": "roses", "train": 20, "validation": 5, "test": 0},
        {"name": "tulips", "train": 16, "validation": 4, "test": 0},
    ]
    assert ended.message["uri"] == f"file://{tmp_path}/store/{ended.message['version']}"


@pytest.mark.feature("D2")
@pytest.mark.parametrize(("images", "held_out"), [(633, 126), (898, 179), (641, 128), (699, 139), (799, 159)])
def test_a_fifth_of_each_flower_class_is_rounded_down(images: int, held_out: int) -> None:
    assert share_of(images, 0.2) == held_out


def test_shares_are_exact_where_binary_fractions_are_not() -> None:
    assert share_of(100, 0.29) == 29


@pytest.mark.feature("D13")
def test_a_test_set_is_held_out_beside_the_validation_set(prepare: Prepare, flowers: Path) -> None:
    split = {"validation": 0.2, "test": 0.1, "seed": 3}
    ended = prepare(flowers, split=split)

    assert ended.message["classes"][0] == {"name": "roses", "train": 18, "validation": 5, "test": 2}
    assert set(manifest_of(ended.message)["shards"]) == {"train", "validation", "test"}


@pytest.mark.feature("D9")
def test_shards_hold_every_image_as_it_was_found(prepare: Prepare, flowers: Path) -> None:
    ended = prepare(flowers, shards={"images": 15})
    manifest = manifest_of(ended.message)
    folder = Path(ended.message["uri"].removeprefix("file://"))

    assert [shard["images"] for shard in manifest["shards"]["train"]] == [15, 15, 6]
    found = {}
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
            found[key] = files[name]
    assert found == {str(p.relative_to(flowers)): p.read_bytes() for p in flowers.rglob("*.*")}


@pytest.mark.feature("D9")
def test_each_shard_mixes_the_classes(prepare: Prepare, flowers: Path) -> None:
    ended = prepare(flowers, shards={"images": 18})
    folder = Path(ended.message["uri"].removeprefix("file://"))
    with tarfile.open(folder / "train-00000.tar", "r:") as tar:
        classes = {f.read() for m in tar if m.name.endswith(".cls") and (f := tar.extractfile(m)) is not None}

    assert classes == {b"0", b"1"}


@pytest.mark.feature("D10")
def test_the_same_images_give_the_same_version_and_nothing_is_written_again(
    prepare: Prepare, flowers: Path, tmp_path: Path
) -> None:
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


def test_the_shards_of_a_version_are_the_same_bytes_wherever_they_are_made(prepare: Prepare, flowers: Path) -> None:
    manifests = [manifest_of(prepare(flowers, store=name).message) for name in ("a", "b")]

    assert manifests[0]["shards"] == manifests[1]["shards"]


def test_a_version_whose_writing_was_cut_short_is_written_again(
    prepare: Prepare, flowers: Path, tmp_path: Path
) -> None:
    first = prepare(flowers)
    folder = tmp_path / "store" / first.message["version"]
    whole = (folder / "train-00000.tar").read_bytes()
    (folder / "manifest.json").unlink()
    (folder / "train-00000.tar").write_bytes(b"half")
    second = prepare(flowers)

    assert second == first
    assert (folder / "train-00000.tar").read_bytes() == whole


@pytest.mark.feature("D5")
def test_images_that_break_a_rule_are_ignored_counted_and_listed(
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
    ended = prepare(flowers)

    assert ended.code == 0
    assert ended.message["images"] == 45
    assert ended.message["ignored"] == {
        "AspectRatio": 1, "Corrupt": 3, "Format": 3, "NotInFolder": 1, "TooLarge": 1, "TooManyBytes": 1, "TooSmall": 1,
    }  # fmt: skip
    assert ignored_by_name(ended.message) == {
        "small.png": "TooSmall", "wide.png": "AspectRatio", "large.jpg": "TooLarge", "animation.gif": "Format",
        "hidden.jpg": "Format", "cut.jpg": "Corrupt", "text.png": "Corrupt", "empty.png": "Corrupt",
        "heavy.bmp": "TooManyBytes", "notes.txt": "Format", "loose.png": "NotInFolder",
    }  # fmt: skip


def test_images_at_the_very_limits_are_kept(prepare: Prepare, write_image: WriteImage, flowers: Path) -> None:
    write_image(flowers / "roses" / "narrow.png", size=(31, 93))
    write_image(flowers / "roses" / "long.jpg", size=(4095, 1365))
    ended = prepare(flowers)

    assert ended.message["images"] == 47
    assert ended.message["ignored"] == {}


def test_without_rules_only_what_cannot_be_read_is_ignored(
    prepare: Prepare, write_image: WriteImage, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    for number in range(6):
        write_image(source / "a" / f"{number}.gif", size=(8, 80), seed=number)
        write_image(source / "b" / f"{number}.png", size=(9, 9), seed=50 + number)
    (source / "a" / "broken.jpg").write_bytes(b"no image")
    ended = prepare(source, rules={"check": False})

    assert ended.code == 0
    assert ended.message["images"] == 12
    assert ended.message["ignored"] == {"Corrupt": 1}


def test_a_png_that_is_named_jpg_is_kept_under_its_true_ending(prepare: Prepare, flowers: Path) -> None:
    for path in list((flowers / "roses").iterdir()):
        path.rename(path.with_suffix(".JPG"))
    ended = prepare(flowers)
    folder = Path(ended.message["uri"].removeprefix("file://"))
    with tarfile.open(folder / "validation-00000.tar", "r:") as tar:
        endings = {name.rpartition(".")[2] for name in tar.getnames()}

    assert ended.message["images"] == 45
    assert endings == {"png", "jpg", "cls", "txt"}


@pytest.mark.feature("D1")
def test_train_and_validation_folders_are_taken_as_they_are(
    prepare: Prepare, write_image: WriteImage, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    for number in range(30):
        split = "train" if number < 18 else "validation" if number < 28 else "test"
        write_image(source / split / "cat" / f"{number}.png", seed=number)
        write_image(source / split / "dog" / f"{number}.png", seed=100 + number)
    ended = prepare(source)

    assert ended.message["classes"] == [
        {"name": "cat", "train": 18, "validation": 10, "test": 2},
        {"name": "dog", "train": 18, "validation": 10, "test": 2},
    ]


def test_a_class_that_is_not_trained_is_refused(prepare: Prepare, write_image: WriteImage, tmp_path: Path) -> None:
    for name in ("train/cat", "train/dog", "validation/cat", "validation/cow"):
        write_image(tmp_path / "source" / name / "1.png")
    ended = prepare(tmp_path / "source")

    assert (ended.code, ended.reason) == (3, "MissingSplit")
    assert ended.sentence == "class 'cow' is under validation/ but not under train/"


def test_a_train_folder_without_a_validation_folder_is_refused(
    prepare: Prepare, write_image: WriteImage, tmp_path: Path
) -> None:
    write_image(tmp_path / "source" / "train" / "cat" / "1.png")
    ended = prepare(tmp_path / "source")

    assert (ended.code, ended.sentence) == (3, "there are no class folders under validation/")


@pytest.mark.feature("D5")
def test_a_class_with_too_few_images_is_named_with_its_number(prepare: Prepare, flowers: Path, tmp_path: Path) -> None:
    for number in range(12):
        (flowers / "tulips" / f"{number}.jpg").unlink()
    (flowers / "tulips" / "12.jpg").write_bytes(b"broken")
    ended = prepare(flowers)

    assert (ended.code, ended.reason) == (3, "TooFewImages")
    assert ended.sentence == (
        "class 'tulips' has 7 images (1 Corrupt ignored); a class needs at least 20 (rules.minImagesPerClass)"
    )
    assert not list((tmp_path / "store").iterdir())


def test_a_folder_without_any_usable_image_is_not_dropped_in_silence(
    prepare: Prepare, write_image: WriteImage, flowers: Path
) -> None:
    write_image(flowers / "lilies" / "1.webp")
    ended = prepare(flowers)

    assert ended.sentence.startswith("class 'lilies' has 0 images (1 Format ignored)")


@pytest.mark.feature("D5")
def test_a_single_class_is_refused(prepare: Prepare, flowers: Path) -> None:
    shutil.rmtree(flowers / "tulips")
    ended = prepare(flowers)

    assert (ended.code, ended.reason) == (3, "TooFewClasses")
    assert ended.sentence == "only the class 'roses' was found; at least 2 classes are needed"


@pytest.mark.feature("D5")
def test_more_classes_than_allowed_are_refused(prepare: Prepare, flowers: Path) -> None:
    shutil.copytree(flowers / "roses", flowers / "lilies")
    ended = prepare(flowers, rules={"maxClasses": 2})

    assert (ended.code, ended.sentence) == (3, "there are 3 classes; rules.maxClasses allows 2")


@pytest.mark.feature("D5")
def test_few_images_and_copies_are_warned_about(prepare: Prepare, write_image: WriteImage, flowers: Path) -> None:
    for number in range(100):
        write_image(flowers / "roses" / f"more{number}.png", seed=500 + number)
    shutil.copy(flowers / "roses" / "0.png", flowers / "roses" / "copy.png")
    ended = prepare(flowers)

    assert ended.message["warnings"] == [
        "under 100 images a class is hard to learn: 'tulips' (20)",
        "1 images are exact copies of another one",
    ]


@pytest.mark.feature("D6")
@pytest.mark.parametrize("name", ["美食/凉皮", "फूल", "Été_2-b", "ดอกไม้ 1"])
def test_class_names_of_any_script_are_kept(prepare: Prepare, flowers: Path, name: str) -> None:
    (flowers / name).parent.mkdir(exist_ok=True)
    (flowers / "roses").rename(flowers / name)
    ended = prepare(flowers)

    assert ended.code == 0
    assert name in [entry["name"] for entry in ended.message["classes"]]


def test_a_name_is_one_class_however_its_accents_are_composed(
    prepare: Prepare, write_image: WriteImage, flowers: Path
) -> None:
    (flowers / "roses").rename(flowers / unicodedata.normalize("NFD", "Été"))
    write_image(flowers / unicodedata.normalize("NFC", "Été") / "one.png", seed=77)
    ended = prepare(flowers)

    assert {entry["name"]: entry["train"] for entry in ended.message["classes"]} == {"Été": 21, "tulips": 16}


def test_a_file_name_that_no_store_could_hold_is_bad_data(prepare: Prepare, flowers: Path) -> None:
    (flowers / "roses" / "0.png").rename(flowers / "roses" / "a\nb.png")
    ended = prepare(flowers)

    assert (ended.code, ended.reason) == (3, "InvalidPath")


@pytest.mark.parametrize(("name", "bad"), [("a,b", "','"), ("<b>", "'<' '>'"), ("a;b", "';'")])
def test_other_class_names_are_refused_in_words(prepare: Prepare, flowers: Path, name: str, bad: str) -> None:
    (flowers / "roses").rename(flowers / name)
    ended = prepare(flowers)

    assert (ended.code, ended.reason) == (3, "BadClassName")
    assert f"has {bad}; class names may have letters of any script" in ended.sentence


def test_what_computers_leave_behind_is_skipped_in_silence(prepare: Prepare, flowers: Path) -> None:
    for litter in (".DS_Store", "roses/.DS_Store", "__MACOSX/roses/._1.png", "roses/Thumbs.db", ".git/config"):
        (flowers / litter).parent.mkdir(parents=True, exist_ok=True)
        (flowers / litter).write_bytes(b"x")
    ended = prepare(flowers)

    assert ended.message["ignored"] == {}
    assert ended.message["classCount"] == 2


def test_an_empty_source_is_bad_data(prepare: Prepare, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    ended = prepare(tmp_path / "source")

    assert (ended.code, ended.sentence) == (3, f"there is nothing under file://{tmp_path}/source")


def test_loose_images_without_class_folders_are_bad_data(
    prepare: Prepare, write_image: WriteImage, tmp_path: Path
) -> None:
    write_image(tmp_path / "source" / "1.png")
    ended = prepare(tmp_path / "source")

    assert (ended.code, ended.sentence) == (
        3, f"there are loose files but no class folders under file://{tmp_path}/source",
    )  # fmt: skip


def test_a_source_that_is_not_there_is_bad_configuration(prepare: Prepare, tmp_path: Path) -> None:
    ended = prepare(tmp_path / "nowhere")

    assert (ended.code, ended.sentence) == (2, f"there is no folder file://{tmp_path}/nowhere")


def test_a_store_that_does_not_answer_is_worth_another_try(
    prepare: Prepare, flowers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    ended = prepare(flowers, source={"uri": "s3://flowers/raw"})

    assert (ended.code, ended.reason) == (1, "StoreUnreachable")
    assert ended.sentence == "the store of s3://flowers/raw does not answer: http://127.0.0.1:1"


def test_an_address_without_http_is_bad_configuration(
    prepare: Prepare, flowers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_AWS_ENDPOINT_URL", "minio:9000")
    ended = prepare(flowers, source={"uri": "s3://flowers/raw"})

    assert (ended.code, ended.reason) == (2, "InvalidEndpoint")


def test_an_image_too_narrow_to_resize_is_ignored_even_without_rules():
    line = io.BytesIO()
    Image.new("L", (1, 4000)).save(line, "PNG")
    broken = by_content(line.getvalue(), Rules(check=False))
    assert broken == Broken("AspectRatio", "1×4000, more than 100:1")


def test_a_text_file_named_as_an_image_is_told_in_words():
    assert by_content(b"hello", Rules(check=False)) == Broken("Corrupt", "not an image that can be read")
