"""Packing images into plain tar files, written to the store as they fill."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import IO, Any, cast

from bloomery_trainer.storage import Folder


@dataclass(frozen=True, slots=True)
class Packed:
    """One image as it goes into a shard."""

    index: int
    extension: str
    class_index: int
    key: str
    data: bytes


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


def write_shard(images: Iterable[Packed], name: str, *, target: Folder, below: str) -> Shard:
    """Writes `below/name`; holds one part of an upload in memory."""
    count = 0
    with target.writer(f"{below}/{name}") as writer:
        with tarfile.open(mode="w|", fileobj=cast(IO[bytes], writer)) as tar:
            for image in images:
                _add(tar, f"{image.index:08}.{image.extension}", image.data)
                _add(tar, f"{image.index:08}.cls", str(image.class_index).encode())
                _add(tar, f"{image.index:08}.txt", image.key.encode())
                count += 1
        return Shard(name, count, writer.bytes, writer.sha256)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))
