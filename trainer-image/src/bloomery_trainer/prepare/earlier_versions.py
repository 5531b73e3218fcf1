"""Earlier versions of a dataset: their class names, and the split of each of their images."""

from __future__ import annotations

import hashlib
import json
import logging
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from bloomery_trainer.prepare.manifest import MANIFEST_NAME
from bloomery_trainer.storage import Folder

logger = logging.getLogger(__name__)

SIDES_NAME = "splits.txt"
"""File of a version with the digest and the split of each image, also of earlier versions."""


def read_class_names(target: Folder) -> Iterator[str]:
    """Yield the classes of all complete versions in the folder of a dataset's versions."""
    for manifest in _read_manifests(target):
        yield from manifest["classes"]


def write_sides(target: Folder, version: str, sides: Iterable[tuple[bytes, str]]) -> None:
    """Write the digest and the split of each image, a line each."""
    with target.writer(f"{version}/{SIDES_NAME}") as writer:
        for sha256, split in sides:
            writer.write(f"{sha256.hex()} {split}\n".encode())


def read_sides(target: Folder, scratch: Path) -> Iterator[tuple[bytes, str]]:
    """Yield the digest and the split of each image of the newest version, and of those before it.

    Args:
        target: the folder of the dataset's versions.
        scratch: a folder for a shard: versions of earlier releases have no list, so that their shards are read.
    """
    newest = max(
        _read_manifests(target), key=lambda manifest: datetime.fromisoformat(manifest["created"]), default=None
    )
    if newest is None:
        return
    version = newest["version"]
    try:
        yield from _read_list(target, f"{version}/{SIDES_NAME}")
    except FileNotFoundError:
        logger.info("version %s has no %s: its shards are read for the split of each image", version[:16], SIDES_NAME)
        yield from _read_shards(target, newest, scratch)


def _read_manifests(target: Folder) -> Iterator[dict[str, Any]]:
    for file in target.list():
        version, _, name = file.path.partition("/")
        content = target.read_if_there(f"{version}/{MANIFEST_NAME}") if name == MANIFEST_NAME else None
        if content is not None:
            yield json.loads(content)


def _creation_time(manifest: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(manifest["created"])


def _read_list(target: Folder, path: str) -> Iterator[tuple[bytes, str]]:
    rest = b""
    for part in target.stream(path):
        *lines, rest = (rest + bytes(part)).split(b"\n")
        for line in lines:
            digest, _, split = line.decode().partition(" ")
            yield bytes.fromhex(digest), split


def _read_shards(target: Folder, manifest: dict[str, Any], scratch: Path) -> Iterator[tuple[bytes, str]]:
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
