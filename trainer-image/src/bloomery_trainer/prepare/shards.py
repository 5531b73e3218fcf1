"""Packing images into plain tar files, written to the store as they fill."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from bloomery_trainer.storage import Folder


@dataclass(frozen=True)
class Shard:
    """One finished tar file of the dataset."""

    name: str
    images: int
    bytes: int
    sha256: str

    def document(self) -> dict[str, Any]:
        """Its entry in the manifest."""
        return asdict(self)


def entries(number: int, data: bytes, *, extension: str, label: int, key: str) -> bytes:
    """One image as it stands in a shard: the file, the index of its class, and what it was called."""
    return b"".join([
        *_entry(f"{number:08}.{extension}", data),
        *_entry(f"{number:08}.cls", str(label).encode()),
        *_entry(f"{number:08}.txt", key.encode()),
    ])  # fmt: skip


def write_shard(images: Iterable[bytes], name: str, *, target: Folder, below: str) -> Shard:
    """Writes `below/name` from the entries of its images; holds one part of an upload in memory."""
    count = 0
    with target.writer(f"{below}/{name}") as writer:
        for image in images:
            writer.write(image)
            count += 1
        writer.write(bytes(2 * tarfile.BLOCKSIZE))
        writer.write(bytes(-writer.bytes % tarfile.RECORDSIZE))
        return Shard(name, count, writer.bytes, writer.sha256)


def _entry(name: str, data: bytes) -> tuple[bytes, bytes, bytes]:
    # Made here and not by a TarFile, so that many threads make them while one writes.
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    return entry.tobuf(tarfile.USTAR_FORMAT), data, bytes(-len(data) % tarfile.BLOCKSIZE)
