"""Splits and wrapping folders, recognised by the names of folders alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bloomery_model.sources.left_out import LeftOut
from bloomery_trainer.prepare.arrangement import Arrangement, KnownClasses, find_arrangement
from bloomery_trainer.prepare.file_table import FileTable
from bloomery_trainer.storage import StoredFile
from tests.unit.trainer.prepare.results import count_images, count_split, read_manifest, version_folder

Prepare = Callable[..., Any]
WriteImage = Callable[..., None]

RULES = {"minImagesPerClass": 2}


@pytest.fixture
def make_source(write_image: WriteImage, tmp_path: Path) -> Callable[..., Path]:
    """Writes a number of images into each folder."""

    def make(folders: Iterable[str], *, images: int = 5, name: str = "source") -> Path:
        for place, folder in enumerate(folders):
            for number in range(images):
                write_image(tmp_path / name / folder / f"{number}.png", seed=1000 * place + number)
        return tmp_path / name

    return make


def folders_of(splits: Sequence[str], *, inside: str = "") -> list[str]:
    return [f"{inside}{split}/{name}" for split in splits for name in ("cat", "dog")]


@pytest.mark.feature("D1")
@pytest.mark.parametrize(
    "splits",
    [
        ("train", "valid", "test"),
        ("Train", "Val", "Test"),
        ("training", "validation", "testing"),
        ("TRAIN", "dev", "test "),
    ],
)
@pytest.mark.parametrize("inside", ["", "chest/chest/"])
def test_known_names_of_splits_decide_the_split(
    prepare: Prepare, make_source: Callable[..., Path], splits: tuple[str, str, str], inside: str
) -> None:
    result = prepare(make_source(folders_of(splits, inside=inside)), rules=RULES)

    assert result.message["classes"] == [
        {"name": name, "train": 5, "validation": 5, "test": 5} for name in ("cat", "dog")
    ]


@pytest.mark.feature("D1")
@pytest.mark.parametrize(
    "folders",
    [
        [f"{name}/{split}" for split in ("train", "val") for name in ("cat", "dog")],
        ["train/train/cat", "train/train/dog", "val/val/cat", "val/val/dog"],
    ],
)
def test_split_below_class_or_in_itself_decides_the_split(
    prepare: Prepare, make_source: Callable[..., Path], folders: list[str]
) -> None:
    result = prepare(make_source(folders), rules=RULES)

    assert result.message["classes"] == [
        {"name": name, "train": 5, "validation": 5, "test": 0} for name in ("cat", "dog")
    ]


@pytest.mark.feature("D1")
@pytest.mark.parametrize("splits", [("train",), ("train", "test")])
@pytest.mark.parametrize("layout", ["Auto", "SplitFolders"])
def test_without_validation_folder_its_share_comes_from_train(
    prepare: Prepare, make_source: Callable[..., Path], splits: tuple[str, ...], layout: str
) -> None:
    source = make_source(folders_of(splits), images=20)
    result = prepare(
        source,
        source={"uri": f"file://{source}", "layout": layout},
        split={"validation": 0.4, "test": 0.2},
        rules=RULES,
    )

    train, validation, test = (count_split(result.message, split) for split in ("train", "validation", "test"))
    assert train + validation == (40 if "test" in splits else 40 - test)
    assert test == 40 if "test" in splits else 0 < test < 16
    assert 8 < validation < 24
    assert "there is no validation/ folder: 40% of train/ validate (split.validation)" in result.message["warnings"]


def test_later_version_without_a_validation_folder_is_no_news(
    prepare: Prepare, make_source: Callable[..., Path], write_image: WriteImage
) -> None:
    source = make_source(folders_of(("train", "test")), images=30)
    prepare(source, rules=RULES)
    write_image(next((source / "train").iterdir()) / "more.png", seed=9000)

    warnings = prepare(source, rules=RULES).message["warnings"]

    assert any("there is no validation/ folder" in warning for warning in warnings)
    assert not any("keep the side" in warning for warning in warnings)


def test_without_a_validation_folder_that_was_there_images_keep_their_side(
    prepare: Prepare, write_image: WriteImage, tmp_path: Path
) -> None:
    for number in range(25):
        for name, seed in (("a", 0), ("b", 100)):
            split = "validation" if number >= 20 else "train"
            write_image(tmp_path / "raw" / split / name / f"{number}.png", seed=seed + number)
    prepare(tmp_path / "raw")
    shutil.rmtree(tmp_path / "raw" / "validation")

    warnings = prepare(tmp_path / "raw", rules={"minImagesPerClass": 5}).message["warnings"]

    assert any(
        sentence.startswith("40 images keep the side that they have in the version before") for sentence in warnings
    )


def test_split_folders_without_train_are_refused(prepare: Prepare, make_source: Callable[..., Path]) -> None:
    result = prepare(make_source(folders_of(("valid", "test"))), rules=RULES)

    assert (result.code, result.reason) == (3, "MissingSplit")
    assert result.sentence == "there are no class folders under train/"


@pytest.mark.feature("D8")
def test_appended_split_folder_keeps_its_split(prepare: Prepare, make_source: Callable[..., Path]) -> None:
    source = make_source(folders_of(("train", "val")))
    more = make_source(folders_of(("Test",)), name="more", images=3)
    result = prepare(source, append=[{"uri": f"file://{more}"}], rules=RULES)

    assert [entry["test"] for entry in result.message["classes"]] == [3, 3]


def test_folder_without_images_does_not_hide_the_splits(prepare: Prepare, make_source: Callable[..., Path]) -> None:
    source = make_source(folders_of(("train", "val"), inside="data/"))
    (source / "annotations").mkdir()
    (source / "annotations" / "all.xml").write_text("<x/>")
    (source / "README.md").write_text("x")
    result = prepare(source, rules=RULES)

    assert count_images(result.message) == {"cat": 10, "dog": 10}
    assert result.message["ignored"] == {"NotInFolder": 2}


def test_split_folders_beside_other_images_are_refused_in_words(
    prepare: Prepare, make_source: Callable[..., Path]
) -> None:
    source = make_source([*folders_of(("train", "valid")), "extra"])
    result = prepare(source, rules=RULES)
    split = prepare(source, source={"uri": f"file://{source}", "layout": "SplitFolders"}, rules=RULES)
    classes = prepare(source, source={"uri": f"file://{source}", "layout": "Folders"}, rules=RULES)

    assert (result.code, result.reason) == (3, "BadClassName")
    assert result.sentence.startswith(
        "class names begin with the name of a split: 'train/cat', 'train/dog', 'valid/cat', 'valid/dog'. "
    )
    assert count_images(split.message) == {"cat": 10, "dog": 10}
    assert len(count_images(classes.message)) == 5
    assert any("begin with the name of a split" in warning for warning in classes.message["warnings"])


def test_class_named_test_among_others_is_a_class(prepare: Prepare, make_source: Callable[..., Path]) -> None:
    result = prepare(make_source(["control", "dev", "test", "urine"]), rules=RULES)

    assert set(count_images(result.message)) == {"control", "dev", "test", "urine"}


def test_renamed_split_folders_stay_classes(prepare: Prepare, make_source: Callable[..., Path]) -> None:
    """Prepare a dataset whose owner has given the classes their names before splits of these names were known."""
    rename = {f"{split}/{name}": name for split in ("train", "valid") for name in ("cat", "dog")}
    result = prepare(make_source(folders_of(("train", "valid"))), rename=rename, rules=RULES)

    assert count_images(result.message) == {"cat": 10, "dog": 10}


@pytest.mark.feature("D2")
@pytest.mark.parametrize("inside", ["photos/", "a/b c/d/"])
def test_folders_around_everything_are_no_part_of_classes(
    prepare: Prepare, make_source: Callable[..., Path], inside: str
) -> None:
    source = make_source([f"{inside}cat", f"{inside}dog", f"{inside}dog/wet"])
    result = prepare(source, rules=RULES)
    prepared = prepare(source, source={"uri": f"file://{source}", "layout": "Folders"}, rules=RULES)

    assert set(count_images(result.message)) == {"cat", "dog", "dog/wet"}
    assert set(count_images(prepared.message)) == {f"{inside}cat", f"{inside}dog", f"{inside}dog/wet"}


def test_folder_that_holds_images_stays_a_class(prepare: Prepare, make_source: Callable[..., Path]) -> None:
    result = prepare(make_source(["animals/dog", "animals/dog/wet"]), rules=RULES)

    assert set(count_images(result.message)) == {"dog", "dog/wet"}


@pytest.mark.parametrize(
    "changes", [{"rename": {"photos/cat": "photos/kitten"}}, {"classes": ["photos/cat", "photos/dog"]}]
)
def test_folder_that_the_configuration_names_stays_in_classes(
    prepare: Prepare, make_source: Callable[..., Path], changes: dict[str, Any]
) -> None:
    result = prepare(make_source(["photos/cat", "photos/dog"]), rules=RULES, **changes)

    assert all(name.startswith("photos/") for name in count_images(result.message))
    assert result.code == 0


@pytest.mark.feature("D8")
def test_appended_class_of_several_folders_keeps_its_name(prepare: Prepare, make_source: Callable[..., Path]) -> None:
    source = make_source(["美食/凉皮", "roses"])
    more = make_source(["new/美食/凉皮"], name="more", images=3)
    result = prepare(source, append=[{"uri": f"file://{more}"}], rules=RULES)

    assert count_images(result.message) == {"roses": 5, "美食/凉皮": 8}


@pytest.mark.feature("O4")
def test_dataset_with_earlier_versions_keeps_its_class_names(
    prepare: Prepare, make_source: Callable[..., Path], write_image: WriteImage
) -> None:
    """Prepare a dataset again whose first version has the folder around everything in its class names."""
    source = make_source(["photos/cat", "photos/dog"])
    first = prepare(source, source={"uri": f"file://{source}", "layout": "Folders"}, rules=RULES)
    write_image(source / "photos" / "dog" / "late.png", seed=77)
    second = prepare(source, rules=RULES)

    assert count_images(first.message) == {"photos/cat": 5, "photos/dog": 5}
    assert count_images(second.message) == {"photos/cat": 5, "photos/dog": 6}
    assert version_folder(first.message) != version_folder(second.message)


@pytest.mark.feature("O4")
def test_version_of_default_rules_is_that_of_the_first_release(
    prepare: Prepare, make_source: Callable[..., Path]
) -> None:
    """Compare the digest with that of the formats which were the default: a new format changes no version."""
    source = make_source(folders_of(("train", "validation", "test")))
    implicit = prepare(source, rules=RULES)
    explicit = prepare(source, rules={**RULES, "formats": ["jpg", "jpeg", "png", "bmp"]})

    assert implicit.message["version"] == explicit.message["version"]
    assert "webp" in read_manifest(implicit.message)["settings"]["rules"]["formats"]


def test_label_texts_in_capital_split_folders_keep_the_split(
    prepare: Prepare, write_image: WriteImage, tmp_path: Path
) -> None:
    for number in range(20):
        folder = tmp_path / "pairs" / "data" / ("Train" if number % 2 else "Valid")
        write_image(folder / f"{number}.png", seed=number)
        (folder / f"{number}.txt").write_text("cat" if number < 10 else "train/dog")
    result = prepare(tmp_path / "pairs", rules=RULES)

    assert result.message["classes"] == [
        {"name": name, "train": 5, "validation": 5, "test": 0} for name in ("cat", "train/dog")
    ]


STABLE_VERSIONS = {
    "Folders": "124d4c964843df6e676c0f7875d6aed1d45260da0b9d37dc1c6345e65ce651ea",
    "SplitFolders": "b6c3120398d2b1d50e1cf56e6908a1477ea891fc3388cccf9c124e88398e7695",
    "ImageText": "9a40261cc3ff7520b0fb84026643421e118b91d20f00cccd6f673ecadb4272c0",
}
"""Versions of the folders below: split folders have that of the first release, others go by content."""


@pytest.mark.feature("O4")
@pytest.mark.parametrize(
    ("layout", "names"),
    [
        ("Folders", [f"{name}/{number}" for name in ("roses", "美食/凉皮") for number in range(10)]),
        (
            "SplitFolders",
            [
                f"{split}/{name}/{number}"
                for split in ("train", "val", "test")
                for name in ("roses", "tulips")
                for number in range(4)
            ],
        ),
        ("ImageText", [str(number) for number in range(20)]),
    ],
)
def test_folders_of_each_layout_keep_their_version(
    prepare: Prepare, tmp_path: Path, layout: str, names: list[str]
) -> None:
    for number, name in enumerate(names):
        path = tmp_path / "source" / f"{name}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (number, 0, 7)).save(path)
        if layout == "ImageText":
            path.with_suffix(".txt").write_text("roses" if number % 2 else "tulips")
    result = prepare(tmp_path / "source", rules=RULES, split={"test": 0.1, "seed": 3})

    assert result.message["version"] == STABLE_VERSIONS[layout]


@pytest.mark.feature("D1")
@pytest.mark.parametrize(
    ("used", "left_out", "arrangement"),
    [
        (("1.jpg", "1.txt"), "a/b/2.jpg", Arrangement(is_labelled=True)),
        (("train/cat/1.jpg", "test/cat/2.jpg"), "other/3.jpg", Arrangement(split="First")),
        (("photos/cat/1.jpg", "photos/dog/2.jpg"), "other/3.jpg", Arrangement("photos/")),
        (("cat/1.jpg", "dog/2.jpg"), "dog/2.txt", Arrangement()),
    ],
)
def test_files_left_out_by_name_say_nothing_about_the_arrangement(
    tmp_path: Path, used: Sequence[str], left_out: str, arrangement: Arrangement
) -> None:
    table = FileTable(tmp_path / "files.sqlite", seed=0)
    bad = LeftOut(left_out, reason="BadName", detail="no path")
    table.listing.add(0, [*(StoredFile(path, 9) for path in used), bad])
    result = find_arrangement(table.listing, 0, "Auto", KnownClasses(frozenset(), tuple))
    table.close()

    assert result == arrangement
