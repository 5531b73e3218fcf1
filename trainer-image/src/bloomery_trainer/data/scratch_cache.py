"""Decoded images on the node's local disk, for sets that do not fit in memory: each is decoded once, not every epoch.

Each process appends to a file of its own, and a table in shared memory says where an image lies. A row is written after
its image, and each image begins with its number and size, so that a reader that sees half of a row decodes instead.
What does not fit, and what the disk cannot read or write as fast as the processor decodes, is decoded each time.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import shutil
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bloomery_trainer.data.pixel_source import PixelSource

logger = logging.getLogger(__name__)

_ROW = np.dtype([("offset", np.int64), ("height", np.int32), ("width", np.int32), ("file", np.int64)])
"""One image: where its header begins, its size in pixels, and the number of its file from 1; 0 where there is none."""
_HEADER = struct.Struct("<qii")
"""The index, height and width of an image, before its pixels."""

_MAX_CLAIM_BYTES = 32 * 2**20
_CLAIM_PARTS = 1024
"""Room that a process takes before it looks again how full the disk is: that many parts of what is left, at most the
former. A node may have a hundred processes, and together they must not take more than there is."""
_SPARE_PARTS = 10
"""One of so many parts of the disk stays free: a kubelet evicts pods before it is full."""
_TRIAL_IMAGES = 64
"""Images by which the disk's pace is compared with that of decoding."""


@dataclass(frozen=True)
class ScratchCache:
    """A scratch folder with room for decoded images.

    Attributes:
        scratch: the folder; all of its content counts.
        limit_bytes: what it may hold, where that is less than its file system has free.
        reserved_bytes: what checkpoints and the model will need of it.
    """

    scratch: Path
    limit_bytes: int | None
    reserved_bytes: int

    @property
    def available_bytes(self) -> int:
        """The bytes that are left; never below 0."""
        disk = shutil.disk_usage(self.scratch)
        left = disk.free - disk.total // _SPARE_PARTS
        if self.limit_bytes is not None:
            left = min(left, self.limit_bytes - self.limit_bytes // _SPARE_PARTS - _folder_bytes(self.scratch))
        return max(0, left - self.reserved_bytes)

    def open(self, source: PixelSource, identity: bytes) -> StoredImages:
        """Return the images of a source, each decoded once as far as there is room.

        Args:
            source: decodes them.
            identity: of its images and its decoder; all sources with the same share what is stored.
        """
        folder = self.scratch / "decoded" / hashlib.sha256(identity).hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
        return StoredImages(source, folder, self)


class StoredImages:
    """Images that are decoded when a process first asks for them, and then read; not for several threads."""

    def __init__(self, source: PixelSource, folder: Path, cache: ScratchCache) -> None:
        self._source = source
        self._folder = folder
        self._cache = cache
        self._rows = _open_table(folder / "table", len(source))
        self._descriptors: dict[int, int] = {}
        self._writer: _Writer | None = None
        self._decoding, self._reading, self._writing = _Pace(), _Pace(), _Pace()

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._source)

    def pixels(self, index: int) -> Tensor:
        """Return one image; raise UnreadableImage if its file cannot be decoded."""
        is_stored = self._rows["file"][index] > 0
        if is_stored and not self._reading.is_slower_than(self._decoding):
            with self._reading.measured():
                stored = self._read(index)
            if stored is not None:
                return stored
        with self._decoding.measured():
            image = self._source.pixels(index)
        if not is_stored and not self._writing.is_slower_than(self._decoding):
            with self._writing.measured():
                self._write(index, image)
        return image

    def _read(self, index: int) -> Tensor | None:
        row = self._rows[index]
        height, width = int(row["height"]), int(row["width"])
        header, pixels = bytearray(_HEADER.size), np.empty((height, width, 3), np.uint8)
        with suppress(OSError):
            descriptor = self._descriptor(int(row["file"]))
            count = os.preadv(descriptor, [header, pixels.data], int(row["offset"]))
            if count == len(header) + pixels.nbytes and _HEADER.unpack(header) == (index, height, width):
                return torch.from_numpy(pixels).permute(2, 0, 1)
        return None

    def _descriptor(self, number: int) -> int:
        if number not in self._descriptors:
            self._descriptors[number] = os.open(self._folder / str(number), os.O_RDONLY)
        return self._descriptors[number]

    def _write(self, index: int, image: Tensor) -> None:
        if self._writer is None or self._writer.process != os.getpid():
            self._writer = _Writer(self._folder, self._cache)
        pixels = image.permute(1, 2, 0).contiguous().numpy()
        height, width = pixels.shape[:2]
        offset = self._writer.append(_HEADER.pack(index, height, width), pixels)
        if offset is not None:
            self._rows[index] = (offset, height, width, self._writer.number)


class _Writer:
    """The file to which one process appends images, as long as there is room."""

    def __init__(self, folder: Path, cache: ScratchCache) -> None:
        self.process = os.getpid()
        self._cache = cache
        self._end = 0
        self._room_bytes = 0
        self._is_full = False
        self.number, self._descriptor = _create_file(folder)

    def append(self, header: bytes, pixels: NDArray[np.uint8]) -> int | None:
        """Append an image; return where it begins, or None if there is no room."""
        size = len(header) + pixels.nbytes
        if not self._has_room(size):
            return None
        try:
            written = os.pwritev(self._descriptor, [header, pixels.data], self._end)
        except OSError as error:
            logger.warning("the local disk takes no more decoded images: %s", error.strerror)
            self._is_full = True
            return None
        if written < size:
            return None
        self._end += size
        self._room_bytes -= size
        return self._end - size

    def _has_room(self, size: int) -> bool:
        if self._is_full:
            return False
        if self._room_bytes < size:
            available = self._cache.available_bytes
            self._is_full = available < size
            if self._is_full:
                logger.info("the local disk holds no more decoded images: the others are decoded each time")
            self._room_bytes = max(size, min(_MAX_CLAIM_BYTES, available // _CLAIM_PARTS))
        return not self._is_full


class _Pace:
    """The mean time of a step."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._steps = 0

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Count the block as a step."""
        began = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - began
        self._steps += 1

    def is_slower_than(self, other: _Pace) -> bool:
        """Return whether the steps take longer, once both have been tried."""
        if min(self._steps, other._steps) < _TRIAL_IMAGES:
            return False
        return self._seconds * other._steps > other._seconds * self._steps


def _open_table(path: Path, images: int) -> NDArray[Any]:
    """Open the table of images, shared by all processes; create an empty one if there is none."""
    with path.open("ab") as file:
        file.truncate(images * _ROW.itemsize)
    return np.memmap(path, _ROW, "r+", shape=(images,))


def _create_file(folder: Path) -> tuple[int, int]:
    """Create a file that no other process writes to; return its number and its descriptor."""
    for number in itertools.count(1):
        with suppress(FileExistsError):
            return number, os.open(folder / str(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    raise AssertionError


def _folder_bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # a checkpoint was replaced meanwhile
            total += path.stat().st_size if path.is_file() else 0
    return total
