"""Near copies: pictures that differ only in size, compression, brightness, a narrow margin, or left and right.

Similar hashes nominate pairs, and the thumbnails decide. The hashes of all pictures are in memory, about 150 bytes for
each picture while it works; everything else stays on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bloomery_trainer.prepare.fingerprint import HASH_BITS, THUMBNAIL_SIDE, Hashes

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]

MAX_DISTANCE = 6
"""Bits by which the hashes of a pair may differ."""

_BANDS = 8
_EQUAL_BANDS = _BANDS - MAX_DISTANCE
"""Six different bits are in at most six of eight bands, so two bands are equal."""
_BAND_BITS = HASH_BITS // _BANDS

_MAX_NEIGHBOURS = 1024
"""Pictures with equal bands that each is compared with."""

_MAX_BUCKET_PAIRS = 8
"""Pairs of a picture and others with the same equal bands."""

_UNMERGED_PAIRS = 2**18
"""Pairs in memory, of eight bytes each, before the equal ones are removed."""

_MAX_PAIRS = 4
"""Nearest later pictures that each is paired with: where thousands are alike, a few pairs make the group."""

_MAX_COMPARED_HELD_OUT = 32
"""Held-out pictures of a group that each training picture is compared with."""

_MIN_SIMILARITY = 0.94
"""Normalised correlation of the thumbnails from which a pair counts; of 3,670 flowers, one pair of strangers has it."""

_MIN_MIRRORED_SIMILARITY = 0.97
"""The same for mirrored pairs. Pictures of one round flower are their own mirror images, more or less."""

_MIN_CONTRAST = 4.0
"""Standard deviation of a thumbnail's grey values under which it shows too little to compare."""

_CROPS = (0.03, 0.06, 0.08)
"""Shares of a side that a copy may lose."""

_MIN_WHOLE_SIMILARITY = 0.7
"""Correlation of whole thumbnails from which their crops are compared, too."""

_CHUNK_PAIRS = 1024
_CHUNK_CROPPED_PAIRS = 32
"""Pairs whose thumbnails are in memory, without and with all of their crops."""


class NearPair(NamedTuple):
    """Two pictures that are near copies, by their positions.

    Attributes:
        first: the lower position.
        other: the higher one.
        similarity: correlation of the thumbnails, at most 1.
    """

    first: int
    other: int
    similarity: float


def find_near_copies(
    hashes: Hashes, read_thumbnails: Callable[[Sequence[int]], NDArray[np.uint8]]
) -> Iterator[NearPair]:
    """Yield the near copies among pictures, each pair once.

    Args:
        hashes: outer, inner and mirrored hash of each picture, of shape (3, pictures).
        read_thumbnails: returns the thumbnails of pictures, of shape (pictures, 16, 16), by their positions.
    """
    for pairs, is_mirrored in _nominate(hashes):
        compare, least = (
            (_compare_mirrored, _MIN_MIRRORED_SIMILARITY) if is_mirrored else (_compare_upright, _MIN_SIMILARITY)
        )
        for start in range(0, len(pairs), _CHUNK_PAIRS):
            chunk = pairs[start : start + _CHUNK_PAIRS]
            similarity = compare(*(read_thumbnails(column.tolist()).astype(np.float32) for column in chunk.T))
            is_near = similarity >= least
            for (first, other), value in zip(chunk[is_near].tolist(), similarity[is_near].tolist(), strict=True):
                yield NearPair(first, other, round(value, 4))


def find_leak(
    hashes: Hashes, trained: int, held_out: Indices, read_thumbnails: Callable[[Sequence[int]], NDArray[np.uint8]]
) -> NearPair | None:
    """Return a training picture with the held-out one of its group that it is most similar to.

    In a large group, the pairs of ``find_near_copies`` need not have each training picture with a held-out one.

    Args:
        hashes: outer, inner and mirrored hash of each picture, of shape (3, pictures).
        trained: position of the training picture.
        held_out: positions of the held-out ones; the nearest by their hashes are compared.
        read_thumbnails: returns the thumbnails of pictures by their positions.

    Returns:
        The pair; None if none of them is a near copy.
    """
    distances = np.bitwise_count(hashes[0, trained] ^ hashes[:, held_out]).min(axis=0)
    nearest = held_out[np.argsort(distances, kind="stable")[:_MAX_COMPARED_HELD_OUT]]
    picture, *others = read_thumbnails([trained, *nearest.tolist()]).astype(np.float32)
    first, other = np.broadcast_to(picture, (len(others), *picture.shape)), np.stack(others)
    upright, mirrored = _compare_upright(first, other), _compare_mirrored(first, other)
    similarity = np.where(mirrored >= _MIN_MIRRORED_SIMILARITY, np.maximum(upright, mirrored), upright)
    best = int(similarity.argmax())
    if similarity[best] < _MIN_SIMILARITY:
        return None
    low, high = sorted((trained, int(nearest[best])))
    return NearPair(low, high, round(float(similarity[best]), 4))


def _nominate(hashes: Hashes) -> Iterator[tuple[Indices, bool]]:
    """Yield arrays of pairs with similar hashes, and whether they are mirrored."""
    outer, inner, mirrored = hashes
    upright_pairs = find_similar_hashes(outer, inner)
    yield upright_pairs, False
    yield _subtract_pairs(find_similar_hashes(outer, mirrored), upright_pairs, len(outer)), True


def find_similar_hashes(hashes: Hashes, other_hashes: Hashes) -> Indices:
    """Return the pairs of positions whose hashes differ by at most ``MAX_DISTANCE`` bits, each pair once.

    Each hash is compared with the later ones and with those of ``other_hashes``, which has one for each position. Pairs
    have some bands of bits in common: for each choice of bands, the hashes are sorted by these, and each is compared
    with the next ones.

    Args:
        hashes: 64 bits each.
        other_hashes: further hashes of the same pictures.

    Returns:
        Sorted pairs, of shape (pairs, 2).
    """
    count = len(hashes)
    entries = np.concatenate([hashes, other_hashes])
    pairs: list[Indices] = []
    for bands in combinations(range(_BANDS), _EQUAL_BANDS):
        keys = _select_bands(entries, bands)
        order = np.argsort(keys, kind="stable").astype(np.int32)
        pairs.append(_compare_neighbours(keys[order], entries[order], order, count))
        # Each choice of bands finds most pairs of pictures that are alike again.
        if sum(map(len, pairs)) > _UNMERGED_PAIRS:
            pairs = [_merge(pairs)]
    codes = _merge(pairs)
    return _select_nearest(np.stack([codes // max(count, 1), codes % max(count, 1)], axis=1), hashes, other_hashes)


def _select_nearest(pairs: Indices, hashes: Hashes, other_hashes: Hashes) -> Indices:
    """Return the pairs of each first picture with the ``_MAX_PAIRS`` nearest others, sorted."""
    first, other = pairs.T
    distance = np.bitwise_count(hashes[first] ^ hashes[other])
    for one, two in ((hashes[first], other_hashes[other]), (other_hashes[first], hashes[other])):
        distance = np.minimum(distance, np.bitwise_count(one ^ two))
    order = np.lexsort((other, distance, first))
    ordered = first[order]
    ranks = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    selected: Indices = pairs[np.sort(order[ranks < _MAX_PAIRS])]
    return selected


def _select_bands(entries: Hashes, bands: Sequence[int]) -> NDArray[np.uint16]:
    """Return two bands of each hash as 16 bits, which NumPy sorts in linear time."""
    first, other = (entries.view(np.uint8).reshape(-1, _BANDS)[:, band].astype(np.uint16) for band in bands)
    keys: NDArray[np.uint16] = first << np.uint16(_BAND_BITS) | other
    return keys


def _compare_neighbours(keys: NDArray[np.uint16], entries: Hashes, order: NDArray[np.int32], count: int) -> Indices:
    """Return the pairs among entries with equal keys, each as ``first * count + other``.

    Args:
        keys: sorted.
        entries: hashes in the order of the keys.
        order: positions of the entries; those from ``count`` on are of the other hashes.
        count: number of pictures.
    """
    codes = []
    starts: Indices = np.arange(len(keys))
    pair_counts = np.zeros(len(keys), np.int16)
    for offset in range(1, _MAX_NEIGHBOURS + 1):
        starts = starts[starts < len(keys) - offset]
        starts = starts[(keys[starts] == keys[starts + offset]) & (pair_counts[starts] < _MAX_BUCKET_PAIRS)]
        if not len(starts):
            break
        near = starts[np.bitwise_count(entries[starts] ^ entries[starts + offset]) <= MAX_DISTANCE]
        one, two = order[near].astype(np.int64), order[near + offset].astype(np.int64)
        # Two of the other hashes say nothing, nor does a picture's similarity to itself.
        useful = ((one < count) | (two < count)) & (one % count != two % count)
        pair_counts[near] += 1
        one, two = one[useful] % count, two[useful] % count
        codes.append(np.minimum(one, two) * count + np.maximum(one, two))
    return _merge(codes)


def _merge(parts: Sequence[Indices]) -> Indices:
    """Return the values of several arrays, sorted and each once; ``np.unique`` takes twice the memory for its table."""
    values = np.concatenate([np.empty(0, np.int64), *parts])
    values.sort()
    is_first = np.ones(len(values), np.bool_)
    np.not_equal(values[1:], values[:-1], out=is_first[1:])
    merged: Indices = values[is_first]
    return merged


def _subtract_pairs(pairs: Indices, known: Indices, count: int) -> Indices:
    codes, known_codes = (array[:, 0] * count + array[:, 1] for array in (pairs, known))
    return pairs[~np.isin(codes, known_codes)]


def _compare_upright(first: Floats, other: Floats) -> Floats:
    """Return the highest correlation of each pair of thumbnails, whichever of the two is a crop of the other."""
    best = _correlate(first, other)
    unsure = np.flatnonzero((best >= _MIN_WHOLE_SIMILARITY) & (best < _MIN_SIMILARITY))
    for start in range(0, len(unsure), _CHUNK_CROPPED_PAIRS):
        chunk = unsure[start : start + _CHUNK_CROPPED_PAIRS]
        for cropped, whole in ((first[chunk], other[chunk]), (other[chunk], first[chunk])):
            best[chunk] = np.maximum(best[chunk], _correlate_crops(cropped, whole))
    return best


def _compare_mirrored(first: Floats, other: Floats) -> Floats:
    return _correlate(first, other[:, :, ::-1])


def _correlate(first: Floats, other: Floats) -> Floats:
    """Return the correlation of each pair of thumbnails; -1 if one of them shows nothing."""
    is_flat = np.minimum(first.std((1, 2)), other.std((1, 2))) < _MIN_CONTRAST
    correlation: Floats = np.einsum("nij,nij->n", _normalise(first), _normalise(other))
    return np.where(is_flat, np.float32(-1), correlation)


def _correlate_crops(cropped: Floats, whole: Floats) -> Floats:
    """Return the highest correlation of any crop of one thumbnail with the whole of the other."""
    normalised = _normalise(whole)
    best = np.full(len(whole), -1, np.float32)
    for matrices in _CROP_MATRICES:
        crops = np.einsum("ria,nab,cjb->nrcij", matrices, cropped, matrices, optimize=True)
        np.maximum(best, np.einsum("nrcij,nij->nrc", _normalise(crops), normalised).max((1, 2)), out=best)
    return best


def _normalise(thumbnails: Floats) -> Floats:
    centred = thumbnails - thumbnails.mean((-2, -1), keepdims=True)
    norm: Floats = np.sqrt(np.square(centred).sum((-2, -1), keepdims=True))
    normalised: Floats = centred / np.maximum(norm, np.float32(1e-6))
    return normalised


def _crop_matrix(start: float, end: float) -> Floats:
    """Return the matrix that stretches the part of a side from ``start`` to ``end`` to the whole side, linearly."""
    side = THUMBNAIL_SIDE
    places = np.clip(start * side + (np.arange(side) + 0.5) * (end - start) - 0.5, 0, side - 1)
    low = np.floor(places).astype(int)
    high = np.minimum(low + 1, side - 1)
    matrix = np.zeros((side, side), np.float32)
    matrix[np.arange(side), low] += 1 - (places - low)
    matrix[np.arange(side), high] += places - low
    return matrix


_CROP_MATRICES = [
    np.stack([_crop_matrix(start, start + 1 - crop) for start in (0.0, crop / 2, crop)]) for crop in _CROPS
]
"""For each share that is lost, the matrices for one end, both ends, and the other end."""
