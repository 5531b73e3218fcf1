"""Preparations of random folders, archives and S3 listings: each input file is used, or listed with a reason."""

from __future__ import annotations

import json
import random
import tarfile
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any

from bloomery_model.file_names import to_printable
from bloomery_model.sources.base import is_junk_file
from tests.fuzz.archives import any_archive
from tests.fuzz.images import any_image, good_image
from tests.fuzz.names import any_disk_path, any_path
from tests.fuzz.s3 import BUCKET, FakeS3
from tests.fuzz.worker import MEMORY_BYTES, Outcome, Worker
from tests.unit.trainer.prepare.results import version_folder

FORMATS = ["jpg", "jpeg", "png", "bmp", "gif", "tif", "tiff", "webp"]
LABELS = (
    "rose", "tulip", "rose\n", "\ufefftulip", "", " ", "a\nb", "a\x00b", "a/b", "/a", "a//b", "..", "凉皮", "é",
    "x" * 300, "x" * 1100, "<script>", "😀",
)  # fmt: skip
AnyPath = Callable[..., str]
GOOD_IMAGES = 16
"""Enough for two classes with images for validation, so that one bad file more ends nothing."""


def folders(worker: Worker, chance: random.Random, folder: Path) -> list[str]:
    """Prepare a local folder, with labels in folders or in texts."""
    layout = chance.choice(("Auto", "Folders", "SplitFolders", "ImageText"))
    files = _good_files(layout) | _any_files(chance, any_disk_path)
    root = folder / "images"
    written = {path: data for path, data in files.items() if _write(root / path, data)}
    outcome = worker.prepare(_config(chance, folder, f"file://{root}", layout=layout), folder, {})
    return problems(outcome, written)


def archives(worker: Worker, chance: random.Random, folder: Path) -> list[str]:
    """Prepare a .zip or .tar.gz; if it is damaged as a whole, nothing is known of its files."""
    files = {f"{chance.choice(('', 'top/'))}{path}": data for path, data in _good_files("Folders").items()}
    files |= _any_files(chance, any_path)
    archive = any_archive(chance, files)
    path = folder / f"input{archive.suffix}"
    path.write_bytes(archive.data)
    outcome = worker.prepare(_config(chance, folder, f"file://{path}"), folder, {})
    members = {path: files.get(path, b"?") for path in archive.members or ()}
    return problems(outcome, members)


def listings(worker: Worker, chance: random.Random, folder: Path) -> list[str]:
    """Prepare a folder of an S3 server whose keys are as S3 allows them, and whose sizes may be wrong."""
    files = _good_files("Folders") | _any_files(chance, any_path)
    (folder / "keys.txt").write_text("\n".join(map(repr, files)), encoding="utf-8")
    with FakeS3({f"raw/{path}": data for path, data in files.items()}, chance) as server:
        access = {"SOURCE_AWS_ENDPOINT_URL": server.url}
        outcome = worker.prepare(_config(chance, folder, f"s3://{BUCKET}/raw"), folder, access)
    return problems(outcome, files)


def problems(outcome: Outcome | str, files: Mapping[str, bytes]) -> list[str]:
    """Return what is wrong with the outcome of preparing the files that are known to have been there."""
    if isinstance(outcome, str):
        return [outcome]
    result = []
    error = outcome.message.get("error", {})
    if outcome.peak_bytes > MEMORY_BYTES:
        result.append(f"it took {outcome.peak_bytes / 2**20:.0f} MiB")
    if outcome.code and (error.get("reason") in (None, "InternalError", "OutOfMemory") or not error.get("message")):
        result.append(f"exit code {outcome.code}: {error}")
    if outcome.code == 0:
        keys = _used_keys(outcome.message) + _ignored_keys(outcome.message)
        twice = [key for key, count in Counter(keys).items() if count > 1]
        result += [f"more than once: {twice[:5]}"] if twice else []
        lost = lost_files(files, keys)
        result += [f"neither used nor listed: {lost[:5]}"] if lost else []
    return result


def lost_files(files: Mapping[str, bytes], keys: Collection[str]) -> list[str]:
    """Return the input files that a preparation neither used nor listed.

    Not counted are the files of operating systems, the empty objects that mark S3 folders, the label texts of files
    that are known, and the content of a folder that is listed in its place.
    """
    known = {_normalise(key) for key in keys}
    stems = {key.rpartition(".")[0] for key in known}
    paths = [_normalise(path) for path, data in files.items() if data or "." in path.rpartition("/")[2]]
    return [
        path
        for path in paths
        if not is_junk_file(path) and not any(_is_known(name, known, stems) for name in _spellings(path))
    ]


def _spellings(path: str) -> Iterator[str]:
    """Yield how a listing may name a file: also without the one folder around an archive, and with escapes."""
    for name in (path, path.partition("/")[2]):
        yield from (name, to_printable(name))


def _is_known(name: str, known: Collection[str], stems: Collection[str]) -> bool:
    if name in known or (name.endswith(".txt") and name.removesuffix(".txt") in stems):
        return True
    *folders, _ = accumulate(name.split("/"), "{}/{}".format)
    return any(f"{folder}/" in known or ("\\" in folder and folder in known) for folder in folders)


def _normalise(path: str) -> str:
    return unicodedata.normalize("NFC", path.removeprefix("./"))


def _used_keys(message: Mapping[str, Any]) -> list[str]:
    keys = []
    for shard in version_folder(dict(message)).glob("*.tar"):
        with tarfile.open(shard) as tar:
            texts = [member for member in tar if member.name.endswith(".txt")]
            keys += [tar.extractfile(member).read().decode() for member in texts]  # type: ignore[union-attr]
    return keys


def _ignored_keys(message: Mapping[str, Any]) -> list[str]:
    lines = (version_folder(dict(message)) / "ignored.jsonl").read_text(encoding="utf-8").split("\n")
    return [json.loads(line)["key"] for line in lines if line]


def _config(chance: random.Random, folder: Path, uri: str, *, layout: str = "Auto") -> dict[str, Any]:
    rules: dict[str, Any] = {"minImagesPerClass": 1, "check": chance.random() < 0.7}
    if chance.random() < 0.5:
        rules["formats"] = FORMATS
    return {
        "kind": "prepare",
        "name": "fuzz",
        "source": {"uri": uri, "layout": layout},
        "rules": rules,
        "output": {"uri": f"file://{folder}/out"},
    }


def _good_files(layout: str) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for number in range(GOOD_IMAGES):
        name = ("rose", "tulip")[number % 2]
        if layout == "ImageText":
            files |= {f"good-{number}.png": good_image(number), f"good-{number}.txt": name.encode()}
        else:
            split = ("validation/" if number % 8 < 2 else "train/") if layout == "SplitFolders" else ""
            files[f"{split}{name}/good-{number}.png"] = good_image(number)
    return files


def _any_files(chance: random.Random, any_path: AnyPath) -> dict[str, bytes]:
    """Return random files; some images have a label text of their name beside them."""
    files: dict[str, bytes] = {}
    odd = chance.random() < 0.3
    for _ in range(chance.choice((1, 3, 10, 30))):
        name = any_path(chance, odd=odd)
        extension, data = any_image(chance)
        if chance.random() < 0.5:
            name = f"{PurePosixPath(name).with_suffix('')}.{extension}" if PurePosixPath(name).name else name
        files[name] = data
        if chance.random() < 0.3:
            text = chance.choice(LABELS)
            files[f"{name.rpartition('.')[0] or name}.txt"] = text.encode(chance.choice(("utf-8", "utf-8", "utf-16")))
    return files


def _write(path: Path, data: bytes) -> bool:
    """Write a file unless its place is taken by a folder, or its name is too long here."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except (OSError, ValueError):
        return False
    return True
