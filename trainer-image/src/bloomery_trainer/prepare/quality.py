"""The quality of a dataset's images: finds copies, leaves out those that mislead, and writes what was found."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bloomery_trainer.config import Rules
from bloomery_trainer.prepare.near_copies import find_leak, find_near_copies
from bloomery_trainer.prepare.quality_queries import Picture, QualityQueries
from bloomery_trainer.storage import Folder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class QualityCounts:
    """The copies among the images.

    Attributes:
        copies: images that are exact copies of another one.
        near_copies: images that look like another one, beside exact copies.
        conflicts: different images that are in two classes or more.
        leaks: training images that are exact copies of held-out ones.
    """

    copies: int
    near_copies: int
    conflicts: int
    leaks: int

    def to_json(self) -> dict[str, int]:
        """Return them as ``status.quality`` has them."""
        return {
            "copies": self.copies,
            "nearCopies": self.near_copies,
            "conflicts": self.conflicts,
            "leaks": self.leaks,
        }


def handle_copies(queries: QualityQueries, rules: Rules) -> None:
    """Leave out the exact copies that are in two classes, or that train beside a held-out one, if the rules say so."""
    queries.index()
    if not rules.check:
        return
    queries.leave_out_conflicts()
    if rules.leaks != "Keep":
        queries.leave_out_leaks()


def handle_near_copies(queries: QualityQueries, rules: Rules) -> None:
    """Find near copies; leave out those that train beside a held-out one, if the rules say so."""
    ids, hashes, held_out = queries.hashes()
    parents, has_leak = np.arange(len(ids), dtype=np.int32), held_out.copy()

    def read_thumbnails(positions: Sequence[int]) -> NDArray[np.uint8]:
        return queries.thumbnails(ids[positions].tolist())

    def pairs() -> Iterator[tuple[int, int, float]]:
        for first, other, similarity in find_near_copies(hashes, read_thumbnails):
            _join(parents, first, other)
            has_leak[[first, other]] |= held_out[first] != held_out[other]
            yield int(ids[first]), int(ids[other]), similarity
        for trained, others in _without_leak(parents, held_out, has_leak):
            leak = find_leak(hashes, trained, others, read_thumbnails)
            if leak is not None:
                yield int(ids[leak.first]), int(ids[leak.other]), leak.similarity

    queries.record_near_pairs(pairs())
    queries.record_near_groups(_list_members(parents, ids))
    if rules.check and rules.leaks == "DropNear":
        queries.leave_out_near_leaks()


def count_quality(queries: QualityQueries) -> QualityCounts:
    """Count the copies of all kinds."""
    copies = conflicts = leaks = 0
    for group in queries.copies():
        copies += len(group) - 1
        conflicts += is_conflict(group)
        leaks += len(list_leaks(group))
    near_copies = sum(len(group) - 1 for group in queries.near_copies())
    return QualityCounts(copies, near_copies, conflicts, leaks)


def is_conflict(group: Iterable[Picture]) -> bool:
    """Whether copies are in different classes."""
    return len({picture.class_name for picture in group}) > 1


def list_leaks(group: Iterable[Picture]) -> list[Picture]:
    """Return the training images among copies of which one is held out."""
    pictures = list(group)
    trained = [picture for picture in pictures if picture.split == "train"]
    return trained if len(trained) < len(pictures) else []


def write_findings(target: Folder, path: str, queries: QualityQueries) -> None:
    """Write one JSON line for each group of copies or near copies, and for each odd picture."""
    with target.writer(path) as writer:
        for finding in _list_findings(queries):
            writer.write(json.dumps(finding, ensure_ascii=False).encode() + b"\n")


def _list_findings(queries: QualityQueries) -> Iterator[Mapping[str, Any]]:
    for kind, groups in (("Copies", queries.copies()), ("NearCopies", queries.near_copies())):
        for group in groups:
            yield {
                "kind": kind,
                "images": [_describe(picture) for picture in group],
                "crossesClasses": is_conflict(group),
                "crossesSplits": bool(list_leaks(group)),
            }
    for picture, issues in queries.odd_pictures():
        yield {"kind": "Odd", "images": [_describe(picture)], "issues": dict(issues)}


def _describe(picture: Picture) -> dict[str, Any]:
    left_out = {"leftOut": picture.reason} if picture.reason else {}
    return {"key": picture.key, "class": picture.class_name, "split": picture.split, **left_out}


def _join(parents: NDArray[np.int32], first: int, other: int) -> None:
    """Join the groups of two positions; the lowest position of a group stands for it."""
    low, high = sorted((_find_root(parents, first), _find_root(parents, other)))
    parents[high] = low


def _find_root(parents: NDArray[np.int32], position: int) -> int:
    while (parent := int(parents[position])) != position:
        parents[position] = parents[parent]
        position = parent
    return position


def _without_leak(
    parents: NDArray[np.int32], held_out: NDArray[np.bool_], has_leak: NDArray[np.bool_]
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield each training position without a known leak, with the held-out ones of its group if there are such."""
    roots = [_find_root(parents, position) for position in range(len(parents))]
    held_out_by_root: dict[int, list[int]] = {}
    for position in np.flatnonzero(held_out).tolist():
        held_out_by_root.setdefault(roots[position], []).append(position)
    for position in np.flatnonzero(~has_leak).tolist():
        others = held_out_by_root.get(roots[position])
        if others is not None:
            yield position, np.array(others, np.int64)


def _list_members(parents: NDArray[np.int32], ids: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield the id and the group of each position that is in a group of two or more."""
    members = np.flatnonzero(parents != np.arange(len(parents), dtype=np.int32))
    roots = [_find_root(parents, position) for position in members.tolist()]
    for position, root in {**dict(zip(members.tolist(), roots, strict=True)), **{root: root for root in roots}}.items():
        yield int(ids[position]), int(ids[root])
