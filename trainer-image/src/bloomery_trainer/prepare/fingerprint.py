"""Fingerprints of pictures: difference hashes and a small thumbnail, by which near copies of a picture are found."""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Hashes = NDArray[np.uint64]

HASH_BITS = 64
THUMBNAIL_SIDE = 16

_HASH_SIZE = (9, 8)
"""Columns and rows of which a hash compares neighbours: eight differences in each of eight rows."""

_INNER_MARGIN = 0.03
"""Share of each side that the inner hash leaves out: it meets the hash of a copy that lost 0 to 6 % of each side."""

_MIRRORED_BYTES = np.array([int(f"{byte:08b}"[::-1], 2) ^ 0xFF for byte in range(256)], dtype=np.uint8)


class Fingerprint(NamedTuple):
    """The fingerprint of a picture, about the same after it was resized, recompressed or brightened.

    Attributes:
        outer: difference hash of the whole picture, 64 bits.
        inner: the same without a margin, for pictures that are cropped a little.
        thumbnail: grey values, 16×16 bytes.
    """

    outer: int
    inner: int
    thumbnail: bytes

    def to_bytes(self) -> bytes:
        """Return it as 272 bytes."""
        return self.outer.to_bytes(8) + self.inner.to_bytes(8) + self.thumbnail

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Return the fingerprint that ``to_bytes`` wrote."""
        return cls(int.from_bytes(data[:8]), int.from_bytes(data[8:16]), data[16:])


def compute_fingerprint(grey: Image.Image) -> Fingerprint:
    """Compute the fingerprint of a picture in mode ``L``."""
    width, height = grey.size
    left, top = _INNER_MARGIN * width, _INNER_MARGIN * height
    thumbnail = grey.resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BILINEAR)
    inner_box = (left, top, width - left, height - top)
    return Fingerprint(_hash(grey, (0, 0, width, height)), _hash(grey, inner_box), thumbnail.tobytes())


def mirror_hashes(hashes: Hashes) -> Hashes:
    """Return the hashes of the mirrored pictures: each row is reversed, and what was brighter is darker."""
    rows = _MIRRORED_BYTES[hashes.astype(">u8").view(np.uint8)]
    return rows.view(">u8").astype(np.uint64)


def _hash(grey: Image.Image, box: tuple[float, float, float, float]) -> int:
    """Return a difference hash (dHash): whether each pixel of a small picture is brighter than its right neighbour."""
    # Lanczos keeps more detail than area averages: a quarter as many strangers have similar hashes.
    pixels = np.asarray(grey.resize(_HASH_SIZE, Image.Resampling.LANCZOS, box=box))
    return int.from_bytes(np.packbits(pixels[:, :-1] > pixels[:, 1:]).tobytes())
