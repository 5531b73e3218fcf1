"""A dataset version on local disk: fetched shards, and where in them each image lies."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bloomery_trainer.config import DatasetVersion
from bloomery_trainer.errors import BadConfig, BadData, Unavailable
from bloomery_trainer.parallel import map_in_order
from bloomery_trainer.storage import Folder

log = logging.getLogger(__name__)

_DOWNLOADS = 4


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """Where the bytes of one image lie in a shard, its class, and the key it had at its source."""

    shard: int
    offset: int
    size: int
    label: int
    key: str


@dataclass(frozen=True)
class ImageFiles:
    """The images of one split, still encoded, readable at random from any thread or forked process."""

    records: list[ImageRecord]
    descriptors: tuple[int, ...]

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.records)

    def read(self, index: int) -> bytes:
        """The bytes of one image file."""
        record = self.records[index]
        # pread keeps no position, so that readers that share a descriptor do not disturb each other.
        return os.pread(self.descriptors[record.shard], record.size, record.offset)

    @property
    def labels(self) -> list[int]:
        """The class index of each image."""
        return [record.label for record in self.records]


@dataclass(frozen=True)
class LocalDataset:
    """A dataset version, ready to be read."""

    version: str
    classes: tuple[str, ...]
    splits: Mapping[str, ImageFiles]


def fetch(wanted: DatasetVersion, folder: Folder, scratch: Path, *, splits: tuple[str, ...]) -> LocalDataset:
    """Downloads the shards of the splits to `scratch`, checks their digests, and indexes them.

    Raises BadConfig where the version is not there or does not fit on the disk, BadData where it is damaged.
    """
    manifest = _manifest(wanted, folder)
    sizes = {s["name"]: s["bytes"] for split in splits for s in manifest["shards"].get(split, [])}
    free = shutil.disk_usage(scratch).free
    if sum(sizes.values()) > free:
        raise BadConfig(
            "ScratchTooSmall",
            f"the dataset needs {_gib(sum(sizes.values()))} of local disk, {_gib(free)} are free; raise scratch",
        )
    files = {split: _fetch_split(manifest["shards"].get(split, []), folder, scratch) for split in splits}
    for split in splits:
        if not files[split].records:
            raise BadData("NoImages", f"dataset {wanted.name} has no {split} images")
    if len(manifest["classes"]) < 2:
        raise BadData("TooFewClasses", f"dataset {wanted.name} has only {len(manifest['classes'])} class")
    return LocalDataset(manifest["version"], tuple(manifest["classes"]), files)


def _manifest(wanted: DatasetVersion, folder: Folder) -> dict[str, Any]:
    content = folder.read_if_there("manifest.json")
    if content is None:
        raise BadConfig("DatasetNotFound", f"there is no prepared dataset (manifest.json) under {wanted.uri}")
    manifest: dict[str, Any] = json.loads(content)
    if manifest["version"] != wanted.version:
        raise BadConfig("DatasetNotFound", f"{wanted.uri} holds version {manifest['version']}, not {wanted.version}")
    return manifest


def _fetch_split(shards: list[dict[str, Any]], folder: Folder, scratch: Path) -> ImageFiles:
    def download(shard: dict[str, Any]) -> Path:
        path = scratch / str(shard["name"])
        try:
            digest = folder.download(shard["name"], path)
        except FileNotFoundError as error:
            raise BadData("ShardMissing", f"{shard['name']} is missing under {folder.uri}") from error
        if digest != shard["sha256"]:
            raise Unavailable("ShardDamaged", f"{shard['name']} under {folder.uri} is not what was written")
        return path

    records: list[ImageRecord] = []
    descriptors = []
    for number, path in enumerate(map_in_order(download, shards, threads=_DOWNLOADS)):
        records += _index(path, number)
        descriptors.append(os.open(path, os.O_RDONLY))
    return ImageFiles(records, tuple(descriptors))


def _index(path: Path, shard: int) -> list[ImageRecord]:
    members: dict[str, dict[str, tarfile.TarInfo]] = {}
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            name, _, ending = member.name.partition(".")
            members.setdefault(name, {})[ending] = member
        return [_record(tar, entry, shard) for entry in members.values()]


def _record(tar: tarfile.TarFile, entry: dict[str, tarfile.TarInfo], shard: int) -> ImageRecord:
    def text(ending: str) -> str:
        file = tar.extractfile(entry.pop(ending))
        return "" if file is None else file.read().decode()

    label, key = int(text("cls")), text("txt")
    (image,) = entry.values()
    return ImageRecord(shard, image.offset_data, image.size, label, key)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
