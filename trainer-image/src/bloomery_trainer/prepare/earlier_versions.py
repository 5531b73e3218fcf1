"""Earlier versions of a dataset: their class names, and the split of each of their images."""

from __future__ import annotations

import hashlib
import json
import logging
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from bloomery_trainer.prepare.manifest import MANIFEST_NAME
from bloomery_trainer.storage import Folder

logger = logging.getLogger(__name__)

SIDES_NAME = "splits.txt"
"""File of a version with the digest and the split of each image, also of earlier versions."""


@dataclass(frozen=True)
class EarlierSplit:
    """The split of the version before.

    Attributes:
        settings: its ``split``.
        sides: returns the digest and the split of each of its images, and of those of the versions before it.
    """

    settings: Mapping[str, Any]
    sides: Callable[[], Iterable[tuple[bytes, str]]]


class EarlierVersions:
    """The complete versions in the folder of a dataset's versions."""

    def __init__(self, target: Folder | None) -> None:
        """Read from the folder ``target`` as needed; without it, there are no versions."""
        self._target = target

    def class_names(self) -> Iterator[str]:
        """Yield the classes of all versions."""
        for manifest in self._manifests:
            yield from manifest["classes"]

    def newest_split(self, scratch: Path) -> EarlierSplit | None:
        """Return the split of the newest version, if there is one.

        Args:
            scratch: a folder for a shard: versions of earlier releases have no list, so that their shards are read.
        """
        newest = max(self._manifests, key=_creation_time, default=None)
        if newest is None or self._target is None:
            return None
        return EarlierSplit(newest["settings"]["split"], partial(_read_sides, self._target, newest, scratch))

    @cached_property
    def _manifests(self) -> list[dict[str, Any]]:
        return list(self._read_manifests())

    def _read_manifests(self) -> Iterator[dict[str, Any]]:
        for file in self._target.list() if self._target else ():
            version, _, name = file.path.partition("/")
            content = self._target.read_if_there(file.path) if self._target and name == MANIFEST_NAME else None
            if content is not None:
                yield {**json.loads(content), "version": version}


def write_sides(target: Folder, version: str, sides: Iterable[tuple[bytes, str]]) -> None:
    """Write the digest and the split of each image, a line each."""
    with target.writer(f"{version}/{SIDES_NAME}") as writer:
        for sha256, split in sides:
            writer.write(f"{sha256.hex()} {split}\n".encode())


def _read_sides(target: Folder, manifest: Mapping[str, Any], scratch: Path) -> Iterator[tuple[bytes, str]]:
    version = manifest["version"]
    try:
        yield from _read_list(target, f"{version}/{SIDES_NAME}")
    except FileNotFoundError:
        logger.info("version %s has no %s: its shards are read for the split of each image", version[:16], SIDES_NAME)
        yield from _read_shards(target, manifest, scratch)


def _creation_time(manifest: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(manifest["created"])


def _read_list(target: Folder, path: str) -> Iterator[tuple[bytes, str]]:
    rest = b""
    for part in target.stream(path):
        *lines, rest = (rest + bytes(part)).split(b"\n")
        for line in lines:
            digest, _, split = line.decode().partition(" ")
            yield bytes.fromhex(digest), split


def _read_shards(target: Folder, manifest: Mapping[str, Any], scratch: Path) -> Iterator[tuple[bytes, str]]:
    path = scratch / "shard.tar"
    for split, shards in manifest["shards"].items():
        for shard in shards:
            try:
                target.download(f"{manifest['version']}/{shard['name']}", path)
            except FileNotFoundError:
                logger.warning("%s is missing: its images may change their split", shard["name"])
                continue
            with tarfile.open(path, "r:") as tar:
                for member in tar:
                    file = None if member.name.endswith((".cls", ".txt")) else tar.extractfile(member)
                    if file is not None:
                        yield hashlib.sha256(file.read()).digest(), split
    path.unlink(missing_ok=True)
