"""Dataset versions on local disk: fetched shards, their classes joined by name, and where each image lies."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bloomery_model.parallel import map_in_order
from bloomery_trainer.class_names import normalize_class_name
from bloomery_trainer.config import DatasetVersion
from bloomery_trainer.errors import BadConfig, BadData, Unavailable
from bloomery_trainer.storage import Folder

logger = logging.getLogger(__name__)

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

    ``records`` is a structured array of ``_RECORD``: a million images take 38 MB. ``shards`` are the files with them.
    """

    records: NDArray[Any]
    shards: tuple[Path, ...]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.records)

    def read(self, index: int) -> bytes:
        """Return the bytes of one image file."""
        record = self.records[index]
        return _read_range(self.shards[record["shard"]], offset=int(record["offset"]), size=int(record["size"]))

    def key(self, index: int) -> str:
        """Return the name of the image at its source."""
        record = self.records[index]
        shard = self.shards[record["shard"]]
        return _read_range(shard, offset=int(record["key_offset"]), size=int(record["key_size"])).decode()

    def subset(self, indices: Sequence[int] | NDArray[Any]) -> ImageFiles:
        """Return the images at these positions, in that order; a boolean array [N] selects those where it is true."""
        return replace(self, records=self.records[np.asarray(indices)])

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
    """One or several dataset versions, ready to be read as one.

    ``unreadable`` names, for each split, the images that could not be decoded and were left out of it. ``notes`` say
    what else people should know of the images.
    """

    parts: tuple[DatasetVersion, ...]
    classes: tuple[str, ...]
    splits: Mapping[str, ImageFiles]
    unreadable: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def unreadable_keys(self) -> tuple[str, ...]:
        """The names of all images that were left out, whatever their split."""
        return tuple(key for keys in self.unreadable.values() for key in keys)

    def with_classes(self, classes: Sequence[str]) -> LocalDataset:
        """Return the same images with their labels in the order of a model's classes.

        Names are compared in Unicode's normal form C.

        Raises:
            BadConfig: a class is none of the model's.
        """
        normalised, own = _normalise_names(classes), _normalise_names(self.classes)
        unknown = [name for name, normal in zip(self.classes, own, strict=True) if normal not in normalised]
        if unknown:
            raise BadConfig(
                "ClassNotFound",
                f"the model has no class {unknown[0]!r}; it has {', '.join(map(repr, classes[:20]))}. Name the classes "
                "to evaluate in datasets[].classes",
            )
        labels = _map_labels(own, own, normalised)

        def relabelled(files: ImageFiles) -> ImageFiles:
            records = files.records.copy()
            records["label"] = labels[records["label"]]
            return replace(files, records=records)

        splits = {split: relabelled(files) for split, files in self.splits.items()}
        return replace(self, classes=tuple(classes), splits=splits)

    def counts(self) -> dict[str, dict[str, dict[str, int]]]:
        """Return images by dataset, class and split: ``counts()["flowers"]["roses"]["train"]``."""
        counts = {part.name: {name: dict.fromkeys(self.splits, 0) for name in self.classes} for part in self.parts}
        for split, files in self.splits.items():
            pairs, numbers = np.unique(np.stack([files.parts, files.labels]), axis=1, return_counts=True)
            for (part, label), number in zip(pairs.T.tolist(), numbers.tolist(), strict=True):
                counts[self.parts[part].name][self.classes[label]][split] = number
        return counts


def fetch(
    versions: Sequence[DatasetVersion],
    open_version: Callable[[str], Folder],
    scratch: Path,
    *,
    splits: tuple[str, ...],
    download: bool = True,
    scratch_bytes: int | None = None,
    reserved_bytes: int = 0,
    least_classes: int = 2,
) -> LocalDataset:
    """Download the shards of the splits to ``scratch``, check their digests, and index them.

    Args:
        versions: those to join.
        open_version: opens a version's folder by its address.
        scratch: an existing local folder.
        splits: their names, such as ``train``.
        download: without it, another process has done so already.
        scratch_bytes: what the folder may hold, where that is less than its file system has free.
        reserved_bytes: what checkpoints and the model will need of it besides the images.
        least_classes: training needs two, evaluation is content with one.

    A split that no dataset has is left out of the result.

    Raises:
        BadConfig: a version or a class is not there, or the images do not fit on the disk.
        BadData: a shard is missing, or train or validation is empty.
        Unavailable: a shard is damaged.
    """
    manifests = [_read_manifest(version, open_version(version.uri)) for version in versions]
    if download:
        _require_room(
            _list_shards(manifests, splits), scratch, scratch_bytes=scratch_bytes, reserved_bytes=reserved_bytes
        )
    chosen = [_choose_classes(version, manifest) for version, manifest in zip(versions, manifests, strict=True)]
    classes = tuple(sorted({name for names in chosen for name in names}))
    if len(classes) < least_classes:
        raise BadData(
            "TooFewClasses", f"{_dataset_names(versions)}: only the class {' '.join(classes)} is left to train on"
        )

    def fetch_split(split: str) -> ImageFiles:
        parts = [
            _fetch_part(
                manifest["shards"].get(split, []),
                open_version(version.uri),
                scratch / str(number),
                labels=_map_labels(manifest["classes"], names, classes),
                part=number,
                download=download,
            )
            for number, (version, manifest, names) in enumerate(zip(versions, manifests, chosen, strict=True))
        ]
        return _join_parts(parts)

    joined = {split: fetch_split(split) for split in splits}
    # Within one dataset, its preparation has seen to that.
    notes = _separate_splits(joined) if len(versions) > 1 else []
    for split in ("train", "validation"):
        if split in joined and not len(joined[split]):
            raise BadData("NoImages", f"{_dataset_names(versions)}: there are no {split} images")
    present = {split: files for split, files in joined.items() if len(files)}
    return LocalDataset(tuple(versions), classes, present, notes=tuple(notes))


def _separate_splits(joined: dict[str, ImageFiles]) -> list[str]:
    """Leave images out of a split that are in one which judges the model more strictly; return sentences for people.

    Two datasets may hold the same image, and have other shares or seeds of their splits.
    """
    notes, seen = list[str](), set[bytes]()
    for split in ("test", "validation", "train"):
        files = joined.get(split)
        if files is None:
            continue
        digests = [hashlib.sha256(files.read(index)).digest() for index in range(len(files))]
        is_new = np.array([digest not in seen for digest in digests], bool)
        seen.update(digests)
        if not is_new.all():
            joined[split] = files.subset(is_new)
            count = len(files) - len(joined[split])
            notes.append(
                f"{count} {split} images are left out, as another dataset holds them out: a model is not judged by "
                "what it was trained with."
            )
    return notes


def _dataset_names(versions: Sequence[DatasetVersion]) -> str:
    return f"dataset{'s'[: len(versions) != 1]} {', '.join(version.name for version in versions)}"


def _read_manifest(version: DatasetVersion, folder: Folder) -> dict[str, Any]:
    content = folder.read_if_there("manifest.json")
    if content is None:
        raise BadConfig("DatasetNotFound", f"there is no prepared dataset (manifest.json) under {version.uri}")
    manifest: dict[str, Any] = json.loads(content)
    if manifest["version"] != version.version:
        raise BadConfig("DatasetNotFound", f"{version.uri} holds version {manifest['version']}, not {version.version}")
    return manifest


def _list_shards(manifests: Sequence[Mapping[str, Any]], splits: tuple[str, ...]) -> list[Mapping[str, Any]]:
    return [shard for manifest in manifests for split in splits for shard in manifest["shards"].get(split, [])]


def _require_room(
    shards: Sequence[Mapping[str, Any]], scratch: Path, *, scratch_bytes: int | None, reserved_bytes: int
) -> None:
    """Raise BadConfig unless the images and what else is written fit into the scratch folder.

    An emptyDir's size limit is not visible in the file system: the kubelet evicts the pod that exceeds it.
    """
    images, free = sum(shard["bytes"] for shard in shards), shutil.disk_usage(scratch).free
    needed = images + reserved_bytes
    use = f"the images need {_gib(images)} of local disk"
    if reserved_bytes:
        use += f" and checkpoints and the model {_gib(reserved_bytes)}"
    if scratch_bytes is not None and needed > scratch_bytes:
        raise BadConfig(
            "ScratchTooSmall", f"{use}; spec.scratch is {_gib(scratch_bytes)}: raise it to at least {_gib_up(needed)}"
        )
    if needed > free:
        raise BadConfig(
            "ScratchTooSmall",
            f"{use}, and {_gib(free)} are free: use a node with more local disk, and raise spec.scratch where it is "
            f"less than {_gib_up(needed)}",
        )


def _choose_classes(version: DatasetVersion, manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the classes to use of a version, as its manifest spells them; all in their one spelling."""
    known = manifest["classes"]
    spelling = dict(zip(_normalise_names(known), known, strict=True))
    requested = _normalise_names(version.classes)
    missing = [name for name, normal in zip(version.classes, requested, strict=True) if normal not in spelling]
    if missing:
        raise BadConfig(
            "ClassNotFound",
            f"dataset {version.name} has no class {missing[0]!r}; it has {', '.join(map(repr, known[:20]))}",
        )
    return tuple(spelling[name] for name in requested) or tuple(known)


def _normalise_names(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(map(normalize_class_name, names))


def _map_labels(known: Sequence[str], chosen: Sequence[str], classes: Sequence[str]) -> NDArray[np.int32]:
    """Map each class index of one dataset to its index among all classes; -1 for a class that is not used."""
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

    tables, paths = [np.empty(0, _RECORD)], []
    for number, path in enumerate(map_in_order(fetched, shards, threads=_DOWNLOADS)):
        table = _index_shard(path)
        table["shard"], table["part"], table["label"] = number, part, labels[table["label"]]
        tables.append(table[table["label"] >= 0])
        paths.append(path)
    return ImageFiles(np.concatenate(tables), tuple(paths))


def _join_parts(parts: Sequence[ImageFiles]) -> ImageFiles:
    tables: list[NDArray[Any]] = []
    shards: tuple[Path, ...] = ()
    for files in parts:
        table = files.records.copy()
        table["shard"] += len(shards)
        tables.append(table)
        shards += files.shards
    return ImageFiles(np.concatenate(tables), shards)


def _read_range(path: Path, *, offset: int, size: int) -> bytes:
    # Opened again for each image, which takes microseconds: a set of a million images has more shards than a process
    # may have descriptors.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.pread(descriptor, size, offset)
    finally:
        os.close(descriptor)


def _index_shard(path: Path) -> NDArray[Any]:
    members: dict[str, dict[str, tarfile.TarInfo]] = {}
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            name, _, ending = member.name.partition(".")
            members.setdefault(name, {})[ending] = member
        return np.array([_shard_record(tar, entry) for entry in members.values()], _RECORD)


def _shard_record(tar: tarfile.TarFile, entry: dict[str, tarfile.TarInfo]) -> tuple[int, ...]:
    label, key = entry.pop("cls"), entry.pop("txt")
    (image,) = entry.values()
    file = tar.extractfile(label)
    number = int(file.read()) if file is not None else -1
    return 0, number, 0, image.offset_data, image.size, key.offset_data, key.size


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def _gib_up(size: int) -> str:
    return f"{math.ceil(size / 2**30)}Gi"
