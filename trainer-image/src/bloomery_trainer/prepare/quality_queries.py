"""Queries about the quality of a dataset's images: copies, near copies and odd pictures, in the file table."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bloomery_trainer.prepare.fingerprint import HASH_BYTES, THUMBNAIL_SIDE, Hashes

LABEL_CONFLICT = "LabelConflict"
LEAK = "Leak"
NEAR_LEAK = "NearLeak"
"""Reasons of images that are left out for their copies."""

_KNOWN = f"lot NOT NULL AND (reason IS NULL OR reason IN ('{LABEL_CONFLICT}', '{LEAK}', '{NEAR_LEAK}'))"
"""Usable images, and those that are left out for their copies; these have no digest any more, but a split rank."""

_PICTURE_COLUMNS = "source, path, class, split, reason"
_CROSSING_PAIRS = (
    "near JOIN file AS a ON a.id = near.first JOIN file AS b ON b.id = near.other"
    " WHERE (a.split = 'train') != (b.split = 'train')"
)


class Picture(NamedTuple):
    """An image of a finding; ``reason`` is why it is left out, if it is, and ``split`` where it would be."""

    source: int
    key: str
    class_name: str
    split: str
    reason: str | None = None


class NearCopy(NamedTuple):
    """Two images, of which one trains and one is held out, that are near copies."""

    trained: Picture
    held_out: Picture


class QualityQueries:
    """What is known of the images beside their classes, once each has a split."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def index(self) -> None:
        """Index the images by content; they must not change any more, but for those that are left out."""
        self._database.execute("CREATE INDEX by_content ON file (lot)")

    def copies(self) -> Iterator[list[Picture]]:
        """Yield the groups of images with the same content."""
        query = (
            f"SELECT lot, {_PICTURE_COLUMNS} FROM file JOIN"
            f" (SELECT lot AS content, min(path) AS first FROM file WHERE {_KNOWN} GROUP BY lot HAVING count(*) > 1)"
            f" ON lot = content WHERE {_KNOWN} ORDER BY first, lot, path, source"
        )
        return self._group_pictures(query)

    def leave_out_conflicts(self) -> None:
        """Leave out the images that are in two classes."""
        self._database.execute(
            f"UPDATE file SET sha = NULL, reason = '{LABEL_CONFLICT}', detail ="
            " (SELECT 'the same image is ' || min(path) || ' of class ' || class FROM file AS other"
            "  WHERE other.lot = file.lot AND other.class != file.class AND other.extension NOT NULL)"
            " WHERE sha NOT NULL AND lot IN"
            " (SELECT lot FROM file WHERE sha NOT NULL GROUP BY lot HAVING count(DISTINCT class) > 1)"
        )

    def leave_out_leaks(self) -> None:
        """Leave out the training images that are exact copies of held-out ones."""
        self._database.execute(
            f"UPDATE file SET sha = NULL, reason = '{LEAK}', detail ="
            " (SELECT 'the same image is in ' || split || ': ' || min(path) FROM file AS other"
            "  WHERE other.lot = file.lot AND other.sha NOT NULL AND other.split != 'train')"
            " WHERE sha NOT NULL AND split = 'train' AND lot IN"
            " (SELECT lot FROM file WHERE sha NOT NULL AND split != 'train')"
        )

    def leave_out_near_leaks(self) -> None:
        """Leave out the training images that are near copies of held-out ones."""
        query = (
            "SELECT iif(a.split = 'train', a.lot, b.lot), 'it looks like ' || iif(a.split = 'train', b.path, a.path)"
            f" || ' in ' || iif(a.split = 'train', b.split, a.split) FROM {_CROSSING_PAIRS}"
        )
        self._database.execute("CREATE TEMP TABLE leak (lot BLOB PRIMARY KEY, detail TEXT)")
        self._database.execute(f"INSERT OR IGNORE INTO leak {query}")
        self._database.execute(
            f"UPDATE file SET sha = NULL, reason = '{NEAR_LEAK}', detail = leak.detail FROM leak"
            " WHERE leak.lot = file.lot AND file.sha NOT NULL AND file.split = 'train'"
        )
        self._database.execute("DROP TABLE leak")

    def find_class_without_training(self) -> str | None:
        """Return a class of which every training image is left out for its copies."""
        row = self._database.execute(
            "SELECT class FROM file WHERE class NOT NULL GROUP BY class"
            f" HAVING sum(reason IN ('{LABEL_CONFLICT}', '{LEAK}', '{NEAR_LEAK}')) > 0"
            " AND sum(sha NOT NULL AND split = 'train') = 0 ORDER BY class LIMIT 1"
        ).fetchone()
        return row[0] if row else None

    def hashes(self) -> tuple[NDArray[np.int64], Hashes, NDArray[np.bool_]]:
        """Return the ids of the usable images, one of each content and no blank ones, their hashes and sides.

        The hashes have the shape (3, images); a side is True for an image that is held out from training.
        """
        ids, hashes, held_out = bytearray(), bytearray(), bytearray()
        query = (
            f"SELECT min(id), substr(fingerprint, 1, {HASH_BYTES}), split != 'train' FROM file WHERE sha NOT NULL"
            " AND coalesce(issues, '') NOT LIKE '%\"Blank\"%' GROUP BY lot"
        )
        for file, pair, is_held_out in self._database.execute(query):
            ids += file.to_bytes(8)
            hashes += pair
            held_out.append(is_held_out)
        table = np.frombuffer(hashes, dtype=">u8").astype(np.uint64).reshape(-1, 3)
        numbers = np.frombuffer(ids, dtype=">i8").astype(np.int64)
        return numbers, np.ascontiguousarray(table.T), np.frombuffer(held_out, dtype=np.bool_)

    def thumbnails(self, files: Sequence[int]) -> NDArray[np.uint8]:
        """Return the thumbnails of images, of shape (images, 16, 16), by their ids."""
        marks = ",".join("?" * len(files))
        query = f"SELECT id, substr(fingerprint, {HASH_BYTES + 1}) FROM file WHERE id IN ({marks})"
        thumbnails = dict(self._database.execute(query, files))
        pixels = np.frombuffer(b"".join(thumbnails[file] for file in files), dtype=np.uint8)
        return pixels.reshape(-1, THUMBNAIL_SIDE, THUMBNAIL_SIDE)

    def record_near_pairs(self, pairs: Iterable[tuple[int, int, float]]) -> None:
        """Store pairs of near copies: two ids, and how similar they are."""
        self._database.executemany("INSERT INTO near VALUES (?, ?, ?)", pairs)

    def record_near_groups(self, groups: Iterable[tuple[int, int]]) -> None:
        """Store the group of each near copy: an id and the group's number."""
        self._database.executemany("UPDATE file SET near = ?2 WHERE id = ?1", groups)

    def near_copies(self) -> Iterator[list[Picture]]:
        """Yield the groups of near copies, one image of each content."""
        return self._group_pictures(
            f"SELECT near, {_PICTURE_COLUMNS} FROM file WHERE near NOT NULL ORDER BY near, path, source"
        )

    def crossing_near_copies(self) -> Iterator[NearCopy]:
        """Yield the pairs of near copies of which one trains and one is held out."""
        columns = (f"{table}.{name}" for table in "ab" for name in _PICTURE_COLUMNS.split(", "))
        query = f"SELECT {', '.join(columns)} FROM {_CROSSING_PAIRS} ORDER BY near.similarity DESC, a.path, b.path"
        for row in self._database.execute(query):
            pair = Picture(*row[:5]), Picture(*row[5:])
            yield NearCopy(*(pair if pair[0].split == "train" else reversed(pair)))

    def odd_pictures(self) -> Iterator[tuple[Picture, Mapping[str, float]]]:
        """Yield the images that are odd, each with its issues and their scores."""
        query = f"SELECT {_PICTURE_COLUMNS}, issues FROM file WHERE issues NOT NULL AND {_KNOWN} ORDER BY path, source"
        for *columns, issues in self._database.execute(query):
            yield Picture(*columns), json.loads(issues)

    def _group_pictures(self, query: str) -> Iterator[list[Picture]]:
        for _, rows in groupby(self._database.execute(query), key=itemgetter(0)):
            yield [Picture(*row[1:]) for row in rows]
