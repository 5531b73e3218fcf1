"""Fingerprints of pictures: difference hashes and a small thumbnail, by which near copies of a picture are found."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Hashes = NDArray[np.uint64]

HASH_BITS = 64
HASH_BYTES = 3 * HASH_BITS // 8
"""Size of the hashes in a fingerprint's bytes; the thumbnail follows."""

THUMBNAIL_SIDE = 16

_HASH_SIZE = (9, 8)
"""Columns and rows of which a hash compares neighbours: eight differences in each of eight rows."""

_INNER_MARGIN = 0.03
"""Share of each side that the inner hash leaves out: it meets the hash of a copy that lost 0 to 6 % of each side."""

_MIN_DIFFERENCE = 2
"""Grey levels that count as a difference: in flat areas, smaller ones are noise."""


class Fingerprint(NamedTuple):
    """The fingerprint of a picture, about the same after it was resized, recompressed or brightened.

    Attributes:
        outer: difference hash of the whole picture, 64 bits.
        inner: the same without a margin, for pictures that are cropped a little.
        mirrored: the same of the mirrored picture.
        thumbnail: grey values, 16×16 bytes.
    """

    outer: int
    inner: int
    mirrored: int
    thumbnail: bytes

    def to_bytes(self) -> bytes:
        """Return the hashes, eight bytes each, and the thumbnail."""
        return b"".join(value.to_bytes(8) for value in self[:3]) + self.thumbnail


def compute_fingerprint(grey: Image.Image) -> Fingerprint:
    """Compute the fingerprint of a picture in mode ``L``."""
    width, height = grey.size
    left, top = _INNER_MARGIN * width, _INNER_MARGIN * height
    whole = _shrink(grey, (0, 0, width, height))
    inner = _shrink(grey, (left, top, width - left, height - top))
    thumbnail = grey.resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BILINEAR)
    return Fingerprint(_hash(whole), _hash(inner), _hash(whole[:, ::-1]), thumbnail.tobytes())


def _shrink(grey: Image.Image, box: tuple[float, float, float, float]) -> NDArray[np.int16]:
    # Lanczos keeps more detail than area averages: a quarter as many strangers have similar hashes.
    return np.asarray(grey.resize(_HASH_SIZE, Image.Resampling.LANCZOS, box=box)).astype(np.int16)


def _hash(pixels: NDArray[np.int16]) -> int:
    """Return a difference hash (dHash): whether each pixel of a small picture is brighter than its right neighbour."""
    return int.from_bytes(np.packbits(pixels[:, :-1] > pixels[:, 1:] + _MIN_DIFFERENCE).tobytes())
