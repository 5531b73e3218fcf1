"""Shards: plain tar files of images, streamed to the store."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from bloomery_trainer.storage import Folder


@dataclass(frozen=True)
class Shard:
    """One complete tar file of the dataset."""

    name: str
    images: int
    bytes: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """Return its entry in the manifest."""
        return asdict(self)


def encode_image(number: int, data: bytes, *, extension: str, class_index: int, key: str) -> bytes:
    """Return the tar entries of one image: the file, the index of its class, and its path in the source."""
    return b"".join([
        *_encode_entry(f"{number:08}.{extension}", data),
        *_encode_entry(f"{number:08}.cls", str(class_index).encode()),
        *_encode_entry(f"{number:08}.txt", key.encode()),
    ])  # fmt: skip


def write_shard(images: Iterable[bytes], name: str, *, target: Folder, folder: str) -> Shard:
    """Write ``folder/name`` from the tar entries of its images; one part of an upload is in memory."""
    count = 0
    with target.writer(f"{folder}/{name}") as writer:
        for image in images:
            writer.write(image)
            count += 1
        writer.write(bytes(2 * tarfile.BLOCKSIZE))
        writer.write(bytes(-writer.bytes % tarfile.RECORDSIZE))
        return Shard(name, count, writer.bytes, writer.sha256)


def _encode_entry(name: str, data: bytes) -> tuple[bytes, bytes, bytes]:
    # Without a TarFile, so that many threads encode while one writes.
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    return entry.tobuf(tarfile.USTAR_FORMAT), data, bytes(-len(data) % tarfile.BLOCKSIZE)
