"""Dataset versions on local disk: fetched shards, their classes joined by name, and where each image lies."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bloomery_trainer.config import DatasetVersion
from bloomery_trainer.errors import BadConfig, BadData, Unavailable
from bloomery_trainer.parallel import map_in_order
from bloomery_trainer.storage import Folder

log = logging.getLogger(__name__)

_DOWNLOADS = 4
_RECORD = np.dtype(
    [
        ("shard", np.int32),
        ("label", np.int32),
        ("part", np.int16),
        ("offset", np.int64),
        ("size", np.int64),
        ("key_offset", np.int64),
        ("key_size", np.int32),
    ]
)
"""One image: its shard, its class, the dataset it is from, where its bytes and its key lie. 38 bytes."""


@dataclass(frozen=True)
class ImageFiles:
    """The images of one split, still encoded, readable at random from any thread or forked process.

    `records` is a structured array of `_RECORD`: a million images take 38 MB.
    """

    records: NDArray[Any]
    descriptors: tuple[int, ...]

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.records)

    def read(self, index: int) -> bytes:
        """The bytes of one image file."""
        record = self.records[index]
        # pread keeps no position, so that readers that share a descriptor do not disturb each other.
        return os.pread(self.descriptors[record["shard"]], int(record["size"]), int(record["offset"]))

    def key(self, index: int) -> str:
        """What the image was called at its source."""
        record = self.records[index]
        name = os.pread(self.descriptors[record["shard"]], int(record["key_size"]), int(record["key_offset"]))
        return name.decode()

    @property
    def labels(self) -> NDArray[np.int64]:
        """The class index of each image, int64 [N]."""
        return self.records["label"].astype(np.int64)

    @property
    def parts(self) -> NDArray[np.int64]:
        """For each image, which of the datasets it is from, int64 [N]."""
        return self.records["part"].astype(np.int64)


@dataclass(frozen=True)
class LocalDataset:
    """One or several dataset versions, ready to be read as one."""

    parts: tuple[DatasetVersion, ...]
    classes: tuple[str, ...]
    splits: Mapping[str, ImageFiles]

    def with_classes(self, classes: Sequence[str]) -> LocalDataset:
        """The same images with their labels in the order of a model's classes.

        Raises BadConfig where a class is none of the model's.
        """
        unknown = [name for name in self.classes if name not in classes]
        if unknown:
            raise BadConfig(
                "ClassNotFound",
                f"the model has no class {unknown[0]!r}; it has {', '.join(map(repr, classes[:20]))}. Name the classes "
                "to evaluate in datasets[].classes",
            )
        labels = _labels(self.classes, self.classes, classes)

        def relabelled(files: ImageFiles) -> ImageFiles:
            records = files.records.copy()
            records["label"] = labels[records["label"]]
            return replace(files, records=records)

        splits = {split: relabelled(files) for split, files in self.splits.items()}
        return LocalDataset(self.parts, tuple(classes), splits)

    def counts(self) -> dict[str, dict[str, dict[str, int]]]:
        """Images by dataset, class and split: `counts()["flowers"]["roses"]["train"]`."""
        found = {part.name: {name: dict.fromkeys(self.splits, 0) for name in self.classes} for part in self.parts}
        for split, files in self.splits.items():
            pairs, numbers = np.unique(np.stack([files.parts, files.labels]), axis=1, return_counts=True)
            for (part, label), number in zip(pairs.T.tolist(), numbers.tolist(), strict=True):
                found[self.parts[part].name][self.classes[label]][split] = number
        return found


def fetch(
    wanted: Sequence[DatasetVersion],
    open_version: Callable[[str], Folder],
    scratch: Path,
    *,
    splits: tuple[str, ...],
    download: bool = True,
    least_classes: int = 2,
) -> LocalDataset:
    """Downloads the shards of the splits to `scratch`, checks their digests, and indexes them.

    Without `download`, another process has done so already. Training needs two classes, evaluation is content with one.

    A split that no dataset has is left out of the result. Raises BadConfig where a version or a class is not there
    or the images do not fit on the disk, BadData where a shard is damaged or train or validation is empty.
    """
    manifests = [_manifest(version, open_version(version.uri)) for version in wanted]
    if download:
        _require_room(manifests, splits, scratch)
    chosen = [_chosen(version, manifest) for version, manifest in zip(wanted, manifests, strict=True)]
    classes = tuple(sorted({name for names in chosen for name in names}))
    if len(classes) < least_classes:
        raise BadData("TooFewClasses", f"{_names(wanted)}: only the class {' '.join(classes)} is left to train on")
    found: dict[str, ImageFiles] = {}
    for split in splits:
        parts = [
            _fetch_part(
                manifest["shards"].get(split, []),
                open_version(version.uri),
                scratch / str(number),
                labels=_labels(manifest["classes"], names, classes),
                part=number,
                download=download,
            )
            for number, (version, manifest, names) in enumerate(zip(wanted, manifests, chosen, strict=True))
        ]
        found[split] = _joined(parts)
    for split in ("train", "validation"):
        if split in found and not len(found[split]):
            raise BadData("NoImages", f"{_names(wanted)}: there are no {split} images")
    return LocalDataset(tuple(wanted), classes, {split: files for split, files in found.items() if len(files)})


def _names(wanted: Sequence[DatasetVersion]) -> str:
    return f"dataset{'s'[: len(wanted) != 1]} {', '.join(version.name for version in wanted)}"


def _manifest(wanted: DatasetVersion, folder: Folder) -> dict[str, Any]:
    content = folder.read_if_there("manifest.json")
    if content is None:
        raise BadConfig("DatasetNotFound", f"there is no prepared dataset (manifest.json) under {wanted.uri}")
    manifest: dict[str, Any] = json.loads(content)
    if manifest["version"] != wanted.version:
        raise BadConfig("DatasetNotFound", f"{wanted.uri} holds version {manifest['version']}, not {wanted.version}")
    return manifest


def _require_room(manifests: Sequence[Mapping[str, Any]], splits: tuple[str, ...], scratch: Path) -> None:
    shards = [shard for manifest in manifests for split in splits for shard in manifest["shards"].get(split, [])]
    needed, free = sum(shard["bytes"] for shard in shards), shutil.disk_usage(scratch).free
    if needed > free:
        raise BadConfig(
            "ScratchTooSmall",
            f"the images need {_gib(needed)} of local disk, {_gib(free)} are free; raise scratch",
        )


def _chosen(wanted: DatasetVersion, manifest: Mapping[str, Any]) -> tuple[str, ...]:
    known = manifest["classes"]
    missing = [name for name in wanted.classes if name not in known]
    if missing:
        raise BadConfig(
            "ClassNotFound",
            f"dataset {wanted.name} has no class {missing[0]!r}; it has {', '.join(map(repr, known[:20]))}",
        )
    return wanted.classes or tuple(known)


def _labels(known: Sequence[str], chosen: Sequence[str], classes: Sequence[str]) -> NDArray[np.int32]:
    """For each class index of one dataset, its index among all classes; -1 for a class that is not used."""
    index = {name: number for number, name in enumerate(classes)}
    return np.array([index[name] if name in chosen else -1 for name in known], np.int32)


def _fetch_part(
    shards: list[dict[str, Any]],
    folder: Folder,
    scratch: Path,
    *,
    labels: NDArray[np.int32],
    part: int,
    download: bool,
) -> ImageFiles:
    scratch.mkdir(exist_ok=True)

    def fetched(shard: dict[str, Any]) -> Path:
        path = scratch / str(shard["name"])
        if not download:
            return path
        try:
            digest = folder.download(shard["name"], path)
        except FileNotFoundError as error:
            raise BadData("ShardMissing", f"{shard['name']} is missing under {folder.uri}") from error
        if digest != shard["sha256"]:
            raise Unavailable("ShardDamaged", f"{shard['name']} under {folder.uri} is not what was written")
        return path

    tables, descriptors = [np.empty(0, _RECORD)], []
    for number, path in enumerate(map_in_order(fetched, shards, threads=_DOWNLOADS)):
        table = _index(path)
        table["shard"], table["part"], table["label"] = number, part, labels[table["label"]]
        tables.append(table[table["label"] >= 0])
        descriptors.append(os.open(path, os.O_RDONLY))
    return ImageFiles(np.concatenate(tables), tuple(descriptors))


def _joined(parts: Sequence[ImageFiles]) -> ImageFiles:
    tables: list[NDArray[Any]] = []
    descriptors: tuple[int, ...] = ()
    for files in parts:
        table = files.records.copy()
        table["shard"] += len(descriptors)
        tables.append(table)
        descriptors += files.descriptors
    return replace(parts[0], records=np.concatenate(tables), descriptors=descriptors)


def _index(path: Path) -> NDArray[Any]:
    members: dict[str, dict[str, tarfile.TarInfo]] = {}
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            name, _, ending = member.name.partition(".")
            members.setdefault(name, {})[ending] = member
        return np.array([_record(tar, entry) for entry in members.values()], _RECORD)


def _record(tar: tarfile.TarFile, entry: dict[str, tarfile.TarInfo]) -> tuple[int, ...]:
    label, key = entry.pop("cls"), entry.pop("txt")
    (image,) = entry.values()
    file = tar.extractfile(label)
    number = int(file.read()) if file is not None else -1
    return 0, number, 0, image.offset_data, image.size, key.offset_data, key.size


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
