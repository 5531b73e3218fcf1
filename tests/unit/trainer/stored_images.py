"""Images of one split as fetching leaves them on the disk."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from bloomery_trainer.data.dataset import _RECORD, ImageFiles


def jpeg(seed: int, size: tuple[int, int] = (60, 40)) -> bytes:
    """A JPEG of coarse noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize(size).save(buffer, "JPEG")
    return buffer.getvalue()


def image_files(path: Path, images: Sequence[bytes], labels: Sequence[int], *, shards: int = 1) -> ImageFiles:
    """The images, called `0.jpg`, `1.jpg` and so on, in as many files below `path`."""
    contents, records = [b""] * shards, []
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        shard, name = number % shards, f"{number}.jpg".encode()
        start = len(contents[shard])
        records.append((shard, label, 0, start, len(image), start + len(image), len(name)))
        contents[shard] += image + name
    path.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(contents):
        (path / str(number)).write_bytes(content)
    return ImageFiles(np.array(records, _RECORD), tuple(path / str(number) for number in range(shards)))
