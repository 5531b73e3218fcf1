"""All files of a preparation in one SQLite file on the local disk, so that memory does not grow with their number.

Each file is pending, usable (it has a digest), or ignored (it has a reason). What is large is read as a stream.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from bloomery_trainer.storage import StoredFile

_PAGE = 1000

_SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA temp_store = FILE;
CREATE TABLE file (
    id INTEGER PRIMARY KEY,
    source INTEGER NOT NULL,
    path TEXT NOT NULL,
    size INTEGER NOT NULL,
    stamp TEXT NOT NULL,
    label TEXT,        -- path of the text that names its class
    class TEXT,
    given TEXT,        -- the split that its folder says
    sha BLOB,
    extension TEXT,
    reason TEXT,
    detail TEXT,
    split TEXT,
    lot BLOB,          -- decides whether it is held out
    place BLOB         -- decides where it stands in the shards
);
CREATE UNIQUE INDEX by_path ON file (source, path);
"""


class Pending(NamedTuple):
    """A file that nobody has looked into yet."""

    id: int
    source: int
    path: str
    size: int
    stamp: str
    label: str | None


class Placed(NamedTuple):
    """What its name says of a file: a class and perhaps a split, or why it is ignored."""

    id: int
    class_name: str | None = None
    split: str | None = None
    reason: str | None = None
    detail: str | None = None


class Looked(NamedTuple):
    """What a look into a file gave: a digest and the true ending, or why it is ignored; a class, if a text says it."""

    source: int
    path: str
    size: int
    stamp: str
    sha256: bytes | None
    extension: str | None
    class_name: str | None
    reason: str | None
    detail: str | None


@dataclass(frozen=True, slots=True)
class Sample:
    """A usable image of a source; `sha256` (32 bytes) of its content."""

    source: int
    key: str
    class_name: str
    sha256: bytes
    extension: str


class Ignored(NamedTuple):
    """A file that is not used, and why: a CamelCase reason and some words."""

    key: str
    reason: str
    detail: str


class Index:
    """The table of all files; used from one thread."""

    def __init__(self, path: Path, *, seed: int) -> None:
        """Makes an empty index at `path`; the seed decides who is held out, and the order."""
        self._database = sqlite3.connect(path)
        self._database.create_function("stem", 1, _stem, deterministic=True)
        self._database.create_function("ending", 1, ending, deterministic=True)
        self._database.executescript(_SCHEMA)
        self._salts = f"split{seed}".encode(), f"order{seed}".encode()

    # Listing and layouts

    def add(self, source: int, files: Iterable[StoredFile]) -> None:
        """Takes the files of a source."""
        self._database.executemany(
            "INSERT INTO file (source, path, size, stamp) VALUES (?, ?, ?, ?)",
            ((source, file.path, file.size, file.stamp) for file in files),
        )

    def top_folders(self, source: int, *, at_most: int) -> set[str]:
        """The first parts of the paths that lie in a folder; more than `at_most` are not looked for."""
        query = (
            "SELECT DISTINCT substr(path, 1, instr(path, '/') - 1) FROM file"
            " WHERE source = ? AND instr(path, '/') LIMIT ?"
        )
        return {name for (name,) in self._database.execute(query, (source, at_most + 1))}

    def has_texts(self, source: int) -> bool:
        """Whether there is any .txt file."""
        return bool(self._one("SELECT EXISTS (SELECT 1 FROM file WHERE source = ? AND ending(path) = 'txt')", source))

    def is_flat(self, source: int) -> bool:
        """Whether no file lies deeper than in one folder."""
        return not self._one("SELECT EXISTS (SELECT 1 FROM file WHERE source = ? AND path LIKE '%/%/%')", source)

    def count_pairs(self, source: int, formats: Sequence[str]) -> tuple[int, int]:
        """How many images there are, and how many of them have a text of the same name."""
        self._database.execute("CREATE INDEX IF NOT EXISTS by_stem ON file (source, stem(path))")
        marks = ",".join("?" * len(formats))
        query = f"SELECT count(*), count({_LABEL}) FROM file AS image WHERE source = ? AND ending(path) IN ({marks})"
        images, pairs = self._database.execute(query, (source, *formats)).fetchone()
        return images, pairs

    def pair(self, source: int, formats: Sequence[str], *, longest: int) -> None:
        """Gives each image the text of its name; the texts that are used so are no files of their own any more."""
        self._database.execute("CREATE INDEX IF NOT EXISTS by_stem ON file (source, stem(path))")
        marks = ",".join("?" * len(formats))
        self._database.execute(
            f"UPDATE file AS image SET label = {_LABEL} WHERE source = ? AND ending(path) IN ({marks})",
            (source, *formats),
        )
        self._database.execute(
            "UPDATE file AS image SET stamp = image.stamp || '|' || text.stamp || '|' || text.size,"
            " reason = iif(text.size > ?, 'BadLabel', NULL),"
            " detail = iif(text.size > ?, 'its label text has ' || text.size || ' bytes', NULL)"
            " FROM file AS text WHERE image.source = ? AND text.source = image.source AND text.path = image.label",
            (longest, longest, source),
        )
        self._database.execute(
            "DELETE FROM file WHERE source = ?1"
            " AND path IN (SELECT label FROM file WHERE source = ?1 AND label NOT NULL)",
            (source,),
        )

    def has_labels(self) -> bool:
        """Whether the class of any image is in a text beside it."""
        return bool(self._one("SELECT EXISTS (SELECT 1 FROM file WHERE label NOT NULL)"))

    def listed(self, source: int) -> Iterator[Pending]:
        """All files of a source that are not ignored yet."""
        return self._pages("source = ? AND reason IS NULL", source)

    def place(self, placed: Iterable[Placed]) -> None:
        """Takes what names say."""
        self._database.executemany(
            "UPDATE file SET class = ?, given = ?, reason = ?, detail = ? WHERE id = ?",
            ((p.class_name, p.split, p.reason, p.detail, p.id) for p in placed),
        )

    def count_pending(self, source: int | None = None) -> int:
        """Files that are neither usable nor ignored, of one source or of all."""
        return int(
            self._one(
                "SELECT count(*) FROM file WHERE sha IS NULL AND reason IS NULL AND coalesce(source = ?, 1)", source
            )
        )

    def given_splits(self, source: int) -> set[str]:
        """The splits that the folders of a source say."""
        query = "SELECT DISTINCT given FROM file WHERE source = ? AND given NOT NULL AND reason IS NULL"
        return {split for (split,) in self._database.execute(query, (source,))}

    def untrained_class(self) -> tuple[str, str] | None:
        """A class that has images to validate or test with and none to train with, and where they lie."""
        row = self._database.execute(
            "SELECT class, given FROM file WHERE class NOT NULL AND given != 'train' AND class NOT IN"
            " (SELECT class FROM file WHERE class NOT NULL AND coalesce(given, 'train') = 'train')"
            " ORDER BY path LIMIT 1"
        ).fetchone()
        return (row[0], row[1]) if row else None

    # Names of classes

    def classes(self) -> list[str]:
        """All classes that any file has, in order."""
        return [
            name
            for (name,) in self._database.execute("SELECT DISTINCT class FROM file WHERE class NOT NULL ORDER BY 1")
        ]

    def name_classes(self, names: Mapping[str, str | None]) -> None:
        """Gives each class its final name; the files of a class whose name is None are taken out."""
        self._database.execute("CREATE TEMP TABLE name (old TEXT PRIMARY KEY, new TEXT)")
        self._database.executemany("INSERT INTO name VALUES (?, ?)", names.items())
        self._database.execute("DELETE FROM file WHERE class IN (SELECT old FROM name WHERE new IS NULL)")
        self._database.execute("UPDATE file SET class = new FROM name WHERE class = old AND old != new")
        self._database.execute("DROP TABLE name")

    # Looking into files

    def pending(self) -> Iterator[Pending]:
        """The files that are still to be looked into; what is found may be recorded meanwhile."""
        return self._pages("sha IS NULL AND reason IS NULL")

    def record(self, looks: Iterable[Looked]) -> int:
        """Takes what was found, as far as the files are still the same; returns for how many."""
        split, order = self._salts
        before = self._database.total_changes
        self._database.executemany(
            "UPDATE file SET sha = ?, extension = ?, class = coalesce(?, class), reason = ?, detail = ?, lot = ?,"
            " place = ? WHERE source = ? AND path = ? AND size = ? AND stamp = ? AND reason IS NULL",
            (
                (
                    *look[4:],
                    look.sha256 and hashlib.sha256(split + look.sha256).digest(),
                    look.sha256 and hashlib.sha256(order + look.sha256).digest(),
                    *look[:4],
                )
                for look in looks
            ),
        )
        return self._database.total_changes - before

    def class_counts(self) -> dict[str, int]:
        """Usable images of each class; 0 where all of its files are ignored."""
        query = "SELECT class, count(sha) FROM file WHERE class NOT NULL GROUP BY class ORDER BY class"
        return dict(self._database.execute(query))

    def reasons_by_class(self) -> dict[str, Counter[str]]:
        """Of each class, how many files are ignored for which reason."""
        found: dict[str, Counter[str]] = defaultdict(Counter)
        query = "SELECT class, reason, count(*) FROM file WHERE class NOT NULL AND reason NOT NULL GROUP BY 1, 2"
        for name, reason, count in self._database.execute(query):
            found[name][reason] = count
        return found

    def reasons(self, source: int | None = None) -> dict[str, int]:
        """How many files are ignored for which reason, of one source or of all."""
        query = (
            "SELECT reason, count(*) FROM file WHERE reason NOT NULL AND coalesce(source = ?, 1)"
            " GROUP BY reason ORDER BY reason"
        )
        return dict(self._database.execute(query, (source,)))

    def ignored(self) -> Iterator[Ignored]:
        """All files that are not used, ordered by their paths."""
        query = "SELECT path, reason, detail FROM file WHERE reason NOT NULL ORDER BY path, source"
        yield from map(Ignored._make, self._database.execute(query))

    # Splits and order

    def index_samples(self) -> None:
        """Settles which images are used; from here on only usable images count."""
        self._database.execute("UPDATE file SET split = given WHERE sha NOT NULL")
        self._database.execute("CREATE INDEX by_lot ON file (class, lot, path, source) WHERE sha NOT NULL")

    def count_free(self, class_name: str) -> int:
        """Images of a class whose split nobody has said."""
        return int(
            self._one("SELECT count(*) FROM file WHERE sha NOT NULL AND given IS NULL AND class = ?", class_name)
        )

    def draw(self, class_name: str, *, validation: int, test: int) -> None:
        """Gives the images of a class a split by their lots: first so many to validate with, then to test with."""
        drawn = (
            "SELECT id, row_number() OVER (ORDER BY lot, path, source) AS number FROM file"
            " WHERE sha NOT NULL AND given IS NULL AND class = ?1"
        )
        self._database.execute(
            "UPDATE file SET split = iif(number <= ?2, 'validation', iif(number <= ?2 + ?3, 'test', 'train'))"
            f" FROM ({drawn}) AS drawn WHERE drawn.id = file.id",
            (class_name, validation, test),
        )

    def counts(self) -> dict[tuple[str, str], int]:
        """Images of each class and split."""
        query = "SELECT class, split, count(*) FROM file WHERE sha NOT NULL GROUP BY 1, 2 ORDER BY 1, 2"
        return {(name, split): count for name, split, count in self._database.execute(query)}

    def contents(self) -> Iterator[tuple[str, str, bytes]]:
        """Class, split and digest of every image, in this order."""
        query = "SELECT class, split, sha FROM file WHERE sha NOT NULL ORDER BY class, split, sha"
        yield from self._database.execute(query)

    def copies(self) -> int:
        """Images that are the same bytes as another one."""
        return int(self._one("SELECT count(sha) - count(DISTINCT sha) FROM file"))

    def shuffled(self, split: str) -> Iterator[Sample]:
        """The images of a split in a fixed order that mixes the classes."""
        self._database.execute(
            "CREATE INDEX IF NOT EXISTS by_place ON file (split, place, path, source) WHERE sha NOT NULL"
        )
        query = f"SELECT {_SAMPLE} FROM file WHERE sha NOT NULL AND split = ? ORDER BY place, path, source"
        for row in self._database.execute(query, (split,)):
            yield Sample(*row)

    def some(self, class_name: str, count: int) -> list[Sample]:
        """A few images of a class."""
        query = f"SELECT {_SAMPLE} FROM file WHERE sha NOT NULL AND class = ? ORDER BY lot, path, source LIMIT ?"
        return [Sample(*row) for row in self._database.execute(query, (class_name, count))]

    def close(self) -> None:
        """Ends its use."""
        self._database.close()

    def _pages(self, condition: str, *values: int) -> Iterator[Pending]:
        # A page at a time, so that rows may change between them.
        query = (
            "SELECT id, source, path, size, stamp, label FROM file"
            f" WHERE {condition} AND id > ? ORDER BY id LIMIT {_PAGE}"
        )
        last = 0
        while page := self._database.execute(query, (*values, last)).fetchall():
            yield from map(Pending._make, page)
            last = page[-1][0]

    def _one(self, query: str, *values: int | str | None) -> int:
        value: int = self._database.execute(query, values).fetchone()[0]
        return value


_SAMPLE = "source, path, class, sha, extension"
_LABEL = (
    "(SELECT text.path FROM file AS text WHERE text.source = image.source AND stem(text.path) = stem(image.path)"
    " AND ending(text.path) = 'txt' ORDER BY text.path LIMIT 1)"
)


def ending(path: str) -> str:
    """The lower-case ending of a file name, without its dot."""
    return PurePosixPath(path).suffix.removeprefix(".").lower()


def _stem(path: str) -> str:
    folder, slash, name = path.rpartition("/")
    stem = name.rpartition(".")[0]
    return f"{folder}{slash}{stem or name}"
