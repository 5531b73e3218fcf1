"""Fingerprints of pictures: difference hashes and a small thumbnail, by which near copies of a picture are found."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bloomery_model.decode import Pixels

Hashes = NDArray[np.uint64]
Floats = NDArray[np.float32]
Distances = NDArray[np.float64]

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


def compute_fingerprint(grey: Pixels) -> Fingerprint:
    """Compute the fingerprint of a picture.

    Args:
        grey: brightness, 0 to 255, of shape (height, width).
    """
    height, width = grey.shape
    rows, columns = _scaling_matrix(height, _HASH_SIZE[1]), _scaling_matrix(width, _HASH_SIZE[0])
    # One product makes all three small pictures: resizing them one by one takes several times as long.
    scaled = rows @ grey.astype(np.float32) @ columns.T
    np.rint(scaled, out=scaled)
    scaled.clip(0, 255, out=scaled)
    pictures = np.empty((3, *reversed(_HASH_SIZE)), np.float32)
    pictures[0] = scaled[: _HASH_SIZE[1], : _HASH_SIZE[0]]
    pictures[1] = scaled[_HASH_SIZE[1] : -THUMBNAIL_SIDE, _HASH_SIZE[0] : -THUMBNAIL_SIDE]
    pictures[2] = pictures[0, :, ::-1]
    thumbnail = scaled[-THUMBNAIL_SIDE:, -THUMBNAIL_SIDE:].astype(np.uint8)
    # The difference hashes (dHash): a bit says whether a pixel is brighter than its right neighbour.
    bits = np.packbits(pictures[:, :, :-1] > pictures[:, :, 1:] + _MIN_DIFFERENCE)
    outer, inner, mirrored = bits.view(">u8").tolist()
    return Fingerprint(outer, inner, mirrored, thumbnail.tobytes())


@lru_cache(maxsize=512)
def _scaling_matrix(size: int, hash_size: int) -> Floats:
    """Return the matrix that scales a side to those of both hashes and of the thumbnail, below one another.

    Lanczos keeps more detail in a hash than area averages: a quarter as many strangers have similar hashes.

    Args:
        size: pixels of the side.
        hash_size: pixels of it that a hash compares.
    """
    margin = _INNER_MARGIN * size
    return np.concatenate(
        [
            _resample(size, 0, size, hash_size, _lanczos, support=3),
            _resample(size, margin, size - margin, hash_size, _lanczos, support=3),
            _resample(size, 0, size, THUMBNAIL_SIDE, _triangle, support=1),
        ]
    )


def _resample(
    size: int, start: float, end: float, count: int, weigh: Callable[[Distances], Distances], *, support: int
) -> Floats:
    """Return the matrix, of shape (count, size), that resamples the part of a side from ``start`` to ``end``.

    Args:
        size: pixels of the side.
        start: of the part, in pixels.
        end: of the part, in pixels.
        count: pixels to make of it.
        weigh: weight of a pixel by its distance, of at most ``support`` new pixels.
        support: reach of the filter.
    """
    step = (end - start) / count
    centres = start + (np.arange(count) + 0.5) * step
    distances = (np.arange(size) + 0.5 - centres[:, None]) / max(step, 1.0)
    weights = np.where(np.abs(distances) < support, weigh(distances), 0)
    matrix: Floats = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return matrix


def _lanczos(distances: Distances) -> Distances:
    weights: Distances = np.sinc(distances) * np.sinc(distances / 3)
    return weights


def _triangle(distances: Distances) -> Distances:
    return 1 - np.abs(distances)
