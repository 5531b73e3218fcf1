"""The output folder of a batch prediction, on a local disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from bloomery_model.sources.folder import FolderSource
from bloomery_model.stores import Folder, S3Access, open_folder
from bloomery_model.task_errors import BadConfig
from bloomery_serving.batch.formats import open_format
from bloomery_serving.batch.output import IgnoredFile, Output, Part, ShareRecord, flat_name, folder_name
from bloomery_serving.prediction import Prediction

LABELS = ("red", "blue")
BEGUN = ShareRecord(owner="me", digest="sha256:1", files=3, total=3)
NO_ACCESS = S3Access.from_environment({})


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return open_folder(f"file://{tmp_path}/out", NO_ACCESS, create=True)


@pytest.fixture
def source(tmp_path: Path) -> FolderSource:
    for name in ("x/1.jpg", "y/1.jpg", "2.jpg"):
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return FolderSource(open_folder(f"file://{tmp_path}/source", NO_ACCESS), NO_ACCESS)


def output(folder: Folder, *, index: int = 0, copies_of: FolderSource | None = None) -> Output:
    return Output(folder, open_format("JSONL", LABELS), LABELS, index=index, copies_of=copies_of)


def claimed(folder: Folder, *, copies_of: FolderSource | None = None) -> Output:
    there = output(folder, copies_of=copies_of)
    there.claim(BEGUN.owner, BEGUN.digest)
    return there


def predictions(**labels: str | None) -> list[Prediction]:
    return [Prediction("id", file, label, {"red": 0.6, "blue": 0.4}) for file, label in labels.items()]


def files_of(folder: Folder) -> list[str]:
    return sorted(file.path for file in folder.list())


@pytest.mark.feature("S22")
def test_part_of_an_interrupted_run_stays_as_it_was_left(folder: Folder, source: FolderSource) -> None:
    """The next run's processor may give an image another label: it must not lie in two folders."""
    earlier = Part(0, predictions(**{"2.jpg": "red"}), [IgnoredFile("x/1.jpg", "Unreadable", "no")])
    later = Part(0, predictions(**{"2.jpg": "blue", "x/1.jpg": "blue"}), [])
    claimed(folder).write_part(earlier, BEGUN)

    record = claimed(folder, copies_of=source).write_part(later, BEGUN)

    assert (record.parts, record.images, record.ignored) == (1, 1, {"Unreadable": 1})
    assert [path for path in files_of(folder) if path.startswith("folders/")] == ["folders/red/2.jpg"]
    assert json.loads(folder.read("predictions/00000-00000.jsonl"))["label"] == "red"
    assert json.loads(folder.read("ignored/00000-00000.jsonl"))["file"] == "x/1.jpg"


def test_ignored_files_of_a_part_without_predictions_are_replaced(folder: Folder) -> None:
    folder.write("ignored/00000-00000.jsonl", b'{"file": "2.jpg", "reason": "Unreadable", "detail": "no"}\n')

    record = claimed(folder).write_part(Part(0, predictions(**{"2.jpg": "red"}), []), BEGUN)

    assert (record.images, record.ignored) == (1, {})
    assert folder.read("ignored/00000-00000.jsonl") == b""


def test_images_are_copied_into_flat_folders_of_their_classes(folder: Folder, source: FolderSource) -> None:
    labels = {"x/1.jpg": "red", "y/1.jpg": "red", "2.jpg": None}

    claimed(folder, copies_of=source).write_part(Part(0, predictions(**labels), []), BEGUN)

    copies = {path: folder.read(path).decode() for path in files_of(folder) if path.startswith(("folders", "unknown"))}
    assert sorted(copies.values()) == ["2.jpg", "x/1.jpg", "y/1.jpg"]
    assert copies.pop("unknown/2.jpg") == "2.jpg"
    assert all(path.startswith("folders/red/") and path.count("/") == 2 for path in copies)


def test_image_that_was_removed_meanwhile_keeps_its_prediction(folder: Folder, source: FolderSource) -> None:
    part = Part(0, predictions(**{"2.jpg": "red", "gone.jpg": "red"}), [])

    record = claimed(folder, copies_of=source).write_part(part, BEGUN)

    assert record.images == 2
    assert [path for path in files_of(folder) if path.startswith("folders/")] == ["folders/red/2.jpg"]


@pytest.mark.parametrize("index", [0, 2])
def test_output_of_another_prediction_is_refused_by_every_process(folder: Folder, index: int) -> None:
    output(folder).write_record(BEGUN)

    with pytest.raises(BadConfig) as refusal:
        output(folder, index=index).read_record("another", "sha256:1")

    assert refusal.value.reason == "OutputInUse"
    assert output(folder, index=index).read_record("me", "sha256:1") == (BEGUN if index == 0 else None)


@pytest.mark.feature("S22")
@pytest.mark.parametrize(
    ("owner", "digest", "reason"),
    [("another", "sha256:1", "OutputInUse"), ("me", "sha256:2", "ModelChanged")],
)
def test_folder_belongs_to_the_first_of_two_that_begin_at_once(
    folder: Folder, owner: str, digest: str, reason: str
) -> None:
    """Neither finds a state, as both still list their files."""
    first, second = output(folder), output(folder)
    assert first.read_record("me", "sha256:1") is None and second.read_record(owner, digest) is None
    first.claim("me", "sha256:1")
    output(folder, index=1).claim("me", "sha256:1")

    with pytest.raises(BadConfig) as refusal:
        second.claim(owner, digest)
    with pytest.raises(BadConfig) as late_refusal:
        second.write_part(
            Part(0, predictions(**{"2.jpg": "red"}), []), BEGUN.model_copy(update={"owner": owner, "digest": digest})
        )

    assert refusal.value.reason == late_refusal.value.reason == reason
    assert files_of(folder) == ["state/claim.json"]


def test_model_whose_files_changed_meanwhile_is_refused(folder: Folder) -> None:
    output(folder).write_record(BEGUN)

    with pytest.raises(BadConfig) as refusal:
        output(folder, index=1).read_record("me", "sha256:2")

    assert refusal.value.reason == "ModelChanged"


def test_states_of_the_other_processes_are_read(folder: Folder) -> None:
    for index in (0, 1, 3):
        output(folder, index=index).write_record(BEGUN.model_copy(update={"images": index}))

    assert sorted(record.images for record in output(folder, index=1).read_other_records(4)) == [0, 3]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (("red", "animals/cat"), ["red", "animals/cat"]),
        (("..", "a//b", ".hidden", "line\nbreak"), ["class-0", "class-1", "class-2", "class-3"]),
    ],
)
def test_class_without_a_name_for_a_folder_gets_its_number(labels: Sequence[str], names: list[str]) -> None:
    assert [folder_name(label, labels) for label in labels] == names


def test_copies_of_the_same_name_differ() -> None:
    assert flat_name("1.jpg") == "1.jpg"
    assert len({flat_name("1.jpg"), flat_name("a/1.jpg"), flat_name("b/1.jpg"), flat_name("a/b/1.jpg")}) == 4
