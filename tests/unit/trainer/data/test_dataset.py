"""Dataset versions on the local disk: room for them, their classes' names, many shards."""

from __future__ import annotations

import hashlib
import io
import json
import resource
import subprocess
import sys
import tarfile
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bloomery_trainer.config import DatasetVersion
from bloomery_trainer.data.dataset import LocalDataset, fetch
from bloomery_trainer.errors import BadConfig
from bloomery_trainer.storage import Folder, S3Access, open_folder
from tests.unit.trainer.stored_images import jpeg

MI = 2**20
SOFT_LIMIT = 256


def write_version(
    folder: Path, *, shards: int, classes: Sequence[str] = ("a", "b"), first_seed: int = 0
) -> DatasetVersion:
    """A prepared version of one image in each shard, half of them for training."""
    folder.mkdir()
    entries: dict[str, list[dict[str, Any]]] = {"train": [], "validation": []}
    for number in range(shards):
        image = jpeg(first_seed + number, (8, 8))
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for ending, content in (("jpg", image), ("cls", b"%d" % (number // 2 % 2)), ("txt", b"%d.jpg" % number)):
                member = tarfile.TarInfo(f"{number:06d}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        data = buffer.getvalue()
        (folder / f"{number}.tar").write_bytes(data)
        entry = {"name": f"{number}.tar", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        entries["train" if number % 2 else "validation"].append(entry)
    manifest = {"version": "1", "classes": list(classes), "shards": entries}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return DatasetVersion(name="flowers", version="1", uri=f"file://{folder}")


def fetched(version: DatasetVersion, scratch: Path, **options: Any) -> LocalDataset:
    scratch.mkdir()
    return fetch([version], open_store, scratch, splits=("train", "validation"), **options)


def open_store(uri: str) -> Folder:
    return open_folder(uri, S3Access.from_environment({}))


def read_all_under_a_low_limit(folder: Path, *, shards: int) -> int:
    """Return the number of images that a process with few open files can read."""
    version = write_version(folder / "store", shards=shards)
    resource.setrlimit(resource.RLIMIT_NOFILE, (SOFT_LIMIT, SOFT_LIMIT))
    dataset = fetched(version, folder / "scratch")
    keys = {files.key(index) for files in dataset.splits.values() for index in range(len(files)) if files.read(index)}
    return len(keys)


def test_two_thousand_shards_are_read_with_few_descriptors(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tests.unit.trainer.data import test_dataset as tests; "
        "print(tests.read_all_under_a_low_limit(Path(sys.argv[1]), shards=2000))"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[4], capture_output=True, text=True, check=False)

    assert done.stdout == "2000\n", done.stderr[-2000:]


def test_images_beyond_the_scratch_volume_are_refused_before_the_download(tmp_path: Path) -> None:
    version = write_version(tmp_path / "store", shards=200)

    with pytest.raises(BadConfig, match=r"spec.scratch is 0.0 GiB: raise it to at least 1Gi") as error:
        fetched(version, tmp_path / "scratch", scratch_bytes=MI)
    assert error.value.reason == "ScratchTooSmall"
    assert not any((tmp_path / "scratch").iterdir())


def test_room_for_checkpoints_and_the_model_counts_too(tmp_path: Path) -> None:
    version = write_version(tmp_path / "store", shards=4)

    assert len(fetched(version, tmp_path / "first", scratch_bytes=5 * MI, reserved_bytes=4 * MI).splits) == 2
    with pytest.raises(BadConfig, match=r"and checkpoints and the model 0.0 GiB; spec.scratch"):
        fetched(version, tmp_path / "second", scratch_bytes=5 * MI, reserved_bytes=5 * MI)


def test_images_beyond_the_nodes_disk_are_refused(tmp_path: Path) -> None:
    version = write_version(tmp_path / "store", shards=4)

    with pytest.raises(BadConfig, match=r"are free: use a node with more local disk, and raise spec.scratch"):
        fetched(version, tmp_path / "scratch", reserved_bytes=10**18)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_classes_are_found_in_any_unicode_form(form: Any, tmp_path: Path) -> None:
    names = ("café", "thé", "노랑")
    version = write_version(tmp_path / "store", shards=8, classes=names)
    chosen = tuple(unicodedata.normalize(form, name) for name in names[:2])
    dataset = fetched(version.model_copy(update={"classes": chosen}), tmp_path / "scratch")

    assert dataset.classes == names[:2]
    assert len(dataset.splits["train"]) == 4


def test_a_models_classes_match_in_any_unicode_form(tmp_path: Path) -> None:
    dataset = fetched(write_version(tmp_path / "store", shards=8, classes=("café", "thé")), tmp_path / "scratch")
    model = ("tisane", *(unicodedata.normalize("NFD", name) for name in ("thé", "café")))
    relabelled = dataset.with_classes(model)

    assert relabelled.classes == model
    assert relabelled.splits["train"].labels.tolist() == [2, 1, 2, 1]


def test_no_image_of_two_datasets_is_trained_with_and_held_out(tmp_path: Path) -> None:
    """The same image, with the shares of another split."""
    first = write_version(tmp_path / "first", shards=8)
    second = write_version(tmp_path / "second", shards=8, first_seed=1)
    second = second.model_copy(update={"name": "others"})
    (tmp_path / "scratch").mkdir()

    dataset = fetch([first, second], open_store, tmp_path / "scratch", splits=("train", "validation"))

    # Images 0 to 7, of which the first holds the even ones out, and 1 to 8, of which the second holds the odd ones out.
    contents = {split: {files.read(index) for index in range(len(files))} for split, files in dataset.splits.items()}
    assert contents["validation"] == {jpeg(seed, (8, 8)) for seed in range(8)}
    assert contents["train"] == {jpeg(8, (8, 8))}
    assert dataset.notes[0].startswith("7 train images are left out, as another dataset holds them out")
    assert fetched(first, tmp_path / "alone").notes == ()


def test_the_scratch_limit_of_a_training_counts_its_checkpoints(train: Callable[..., Any]) -> None:
    ended = train(scratchBytes=50 * MI)

    assert (ended.code, ended.reason) == (2, "ScratchTooSmall")
    assert "checkpoints and the model 0." in ended.sentence
