"""The files of one process: its share of those of the source, listed once, so that a restart has the same ones."""

from __future__ import annotations

import gzip
import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from bloomery_model.file_names import file_extension
from bloomery_model.sources.base import Source
from bloomery_model.sources.left_out import LeftOut
from bloomery_model.sources.listing import list_candidates
from bloomery_model.stores import StoredFile
from bloomery_serving.image_file import FILE_EXTENSIONS

_TABLE = """
CREATE TABLE file (path TEXT PRIMARY KEY, size INTEGER, reason TEXT, detail TEXT, share INTEGER) WITHOUT ROWID
"""
_COUNTS = "SELECT COUNT(*) FILTER (WHERE share = ?), COUNT(*) FROM file"


class ListedFile(NamedTuple):
    """A file of the source; with a reason, one that is not read."""

    path: str
    size: int
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Share:
    """The part of the files that one of several processes works on; each file is in one share."""

    index: int
    processes: int

    def index_of(self, path: str) -> int:
        """Return the number of the process that a file belongs to, which does not depend on the other files."""
        return int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big") % self.processes


@dataclass(frozen=True)
class FileCounts:
    """Number of files of a share, and of the source."""

    share: int
    total: int


def list_share(source: Source, share: Share, target: Path) -> FileCounts:
    """Write the files of a share to a local file, sorted by their paths.

    A database of SQLite sorts them on the disk: memory does not grow with their number.
    """
    with closing(sqlite3.connect("")) as database:
        database.execute(_TABLE)
        rows = ((*_listed(file), share.index_of(file.path)) for file in list_candidates(source))
        database.executemany("INSERT OR IGNORE INTO file VALUES (?, ?, ?, ?, ?)", rows)
        query = "SELECT path, size, reason, detail FROM file WHERE share = ? ORDER BY path"
        with gzip.open(target, "wt", encoding="utf-8", compresslevel=6) as file:
            for row in database.execute(query, (share.index,)):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        own, total = database.execute(_COUNTS, (share.index,)).fetchone()
    return FileCounts(own, total)


def read_list(path: Path, *, skip: int = 0) -> Iterator[ListedFile]:
    """Yield the files of a list that ``list_share`` has written, without the first ones."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in islice(file, skip, None):
            yield ListedFile(*json.loads(line))


def _listed(file: StoredFile | LeftOut) -> ListedFile:
    if isinstance(file, LeftOut):
        return ListedFile(file.path, 0, file.reason, file.detail)
    extension = file_extension(file.path)
    # Without an extension, the content decides.
    if extension and extension not in FILE_EXTENSIONS:
        return ListedFile(file.path, file.size, "Format", f"the name ends in .{extension}")
    return ListedFile(file.path, file.size)
