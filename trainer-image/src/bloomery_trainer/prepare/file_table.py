"""All files of a preparation in one SQLite file on the local disk, so that memory does not grow with their number.

Each file is pending, usable (it has a digest) or ignored (it has a reason). Each stage has the queries of its own;
large results are read as streams.
"""

from __future__ import annotations

import hashlib
import posixpath
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from bloomery_model import EXTENSIONS
from bloomery_model.capture import LABEL_SUFFIX, RECORD_SUFFIX
from bloomery_model.file_names import file_extension
from bloomery_model.sources.left_out import LeftOut
from bloomery_trainer.prepare.quality_queries import QualityQueries
from bloomery_trainer.storage import StoredFile

_PAGE_ROWS = 1000

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
    label TEXT,        -- path of the text with its class
    label_text BLOB,   -- content of that text
    class TEXT,
    given TEXT,        -- folder split: the split that its folder is named as
    sha BLOB,
    extension TEXT,
    reason TEXT,
    detail TEXT,
    split TEXT,
    lot BLOB,          -- split rank, of the content and the seed: the lowest ranks are held out
    place BLOB,        -- shuffle rank: the order in the shards
    fingerprint BLOB,  -- of the picture
    issues TEXT,       -- what is odd about the picture, with scores, as JSON
    near INTEGER       -- group of near copies
);
CREATE TABLE side (sha BLOB PRIMARY KEY, split TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE near (first INTEGER NOT NULL, other INTEGER NOT NULL, similarity REAL NOT NULL);
CREATE UNIQUE INDEX by_path ON file (source, path);
"""


class PendingFile(NamedTuple):
    """A file that is not inspected yet."""

    id: int
    source: int
    path: str
    size: int
    stamp: str
    label: str | None


class Assignment(NamedTuple):
    """The class and the split of a file by its name, or why it is ignored."""

    id: int
    class_name: str | None = None
    split: str | None = None
    reason: str | None = None
    detail: str | None = None


class Inspection(NamedTuple):
    """The result of reading a file: its digest, true extension and fingerprint, or why it is ignored.

    ``label_text`` is the content of the text beside the file that names its class. Earlier releases decoded it at once,
    into ``class_name``. ``issues`` is what is odd about the picture, as JSON.
    """

    source: int
    path: str
    size: int
    stamp: str
    sha256: bytes | None
    extension: str | None
    class_name: str | None
    reason: str | None
    detail: str | None
    label_text: bytes | None = None
    fingerprint: bytes | None = None
    issues: str | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """A usable image of a source; ``sha256`` (32 bytes) of its content."""

    source: int
    key: str
    class_name: str
    sha256: bytes
    extension: str


class IgnoredFile(NamedTuple):
    """A file that is not used: a CamelCase reason, and a sentence."""

    key: str
    reason: str
    detail: str


class FileTable:
    """The table of all files; used from one thread.

    Attributes:
        listing: for the files of a source, and their classes and splits by name.
        classes: for the names of the classes.
        inspection: for the results of reading the files.
        labels: for the label texts.
        splits: for the split of each image.
        quality: for copies and odd pictures, once each image has a split.
        samples: for the usable images, once each has a split.
        ignored: for the files that are not used.
    """

    def __init__(self, path: Path, *, seed: int) -> None:
        """Create an empty table at ``path``; the seed decides about held-out images and the order in the shards."""
        self._database = sqlite3.connect(path)
        self._database.create_function("stem", 1, _stem, deterministic=True)
        self._database.create_function("ending", 1, file_extension, deterministic=True)
        self._database.create_function("folder", 1, _parent_name, deterministic=True)
        self._database.executescript(_SCHEMA)
        self.listing = ListingQueries(self._database)
        self.classes = ClassQueries(self._database)
        self.inspection = InspectionQueries(self._database, seed=seed)
        self.labels = LabelQueries(self._database)
        self.splits = SplitQueries(self._database)
        self.quality = QualityQueries(self._database)
        self.samples = SampleQueries(self._database)
        self.ignored = IgnoredQueries(self._database)

    def close(self) -> None:
        """Close the database."""
        self._database.close()


class _Queries:
    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def _select_value(self, query: str, *values: int | str) -> int:
        value: int = self._database.execute(query, values).fetchone()[0]
        return value

    def _select_files(self, condition: str, *values: int) -> Iterator[PendingFile]:
        # A page at a time, so that rows may change between the pages.
        query = (
            "SELECT id, source, path, size, stamp, label FROM file"
            f" WHERE {condition} AND id > ? ORDER BY id LIMIT {_PAGE_ROWS}"
        )
        last_id = 0
        while page := self._database.execute(query, (*values, last_id)).fetchall():
            yield from map(PendingFile._make, page)
            last_id = page[-1][0]


_LABEL_PATH = (
    "(SELECT text.path FROM file AS text WHERE text.source = image.source AND stem(text.path) = stem(image.path)"
    " AND ending(text.path) = 'txt' AND text.reason IS NULL ORDER BY text.path LIMIT 1)"
)


_MAY_BE_IMAGE = f"reason IS NULL AND ending(path) IN ('', {', '.join(map(repr, EXTENSIONS))})"
"""By the name; other files say nothing about the layout."""

_IN_FOLDER = (
    "source = :source AND substr(path, 1, length(:below)) = :below AND instr(substr(path, length(:below) + 1), '/')"
    f" AND {_MAY_BE_IMAGE}"
)
"""Possible images in folders below a folder."""


class ListingQueries(_Queries):
    """The files of a source, and what their names say."""

    def add(self, source: int, files: Iterable[StoredFile | LeftOut]) -> None:
        """Add the files of a source, each once."""
        # A source may list a file twice, and the mark of an S3 folder, a key with a slash at its end, may give the path
        # of another key.
        self._database.executemany(
            "INSERT OR IGNORE INTO file (source, path, size, stamp, reason, detail) VALUES (?, ?, ?, ?, ?, ?)",
            (
                (source, file.path, 0, "", file.reason, file.detail)
                if isinstance(file, LeftOut)
                else (source, file.path, file.size, file.stamp, None, None)
                for file in files
            ),
        )

    def common_folder(self, source: int) -> str:
        """Return the folders, each with a slash at its end, that are around all images and hold none themselves."""
        query = f"SELECT min(path), max(path) FROM file WHERE {_IN_FOLDER}"
        first, last = self._database.execute(query, {"source": source, "below": ""}).fetchone()
        # A prefix of the first and the last path is one of all.
        prefix = posixpath.commonprefix([first or "", last or ""])
        folder = prefix[: prefix.rfind("/") + 1]
        holds_images = self._database.execute(
            "SELECT EXISTS (SELECT 1 FROM file WHERE source = :source AND substr(path, 1, length(:below)) = :below"
            f" AND NOT instr(substr(path, length(:below) + 1), '/') AND {_MAY_BE_IMAGE})",
            {"source": source, "below": folder},
        ).fetchone()[0]
        return _outer_folder(folder) if holds_images else folder

    def top_folders(self, source: int, below: str, *, limit: int) -> set[str]:
        """Return the names of the folders directly below a folder, at most one more than ``limit``."""
        query = (
            "SELECT DISTINCT substr(path, length(:below) + 1, instr(substr(path, length(:below) + 1), '/') - 1)"
            f" FROM file WHERE {_IN_FOLDER} LIMIT :limit"
        )
        values = {"source": source, "below": below, "limit": limit + 1}
        return {name for (name,) in self._database.execute(query, values)}

    def inner_folders(self, source: int, below: str, *, limit: int) -> set[str]:
        """Return the names of the folders that images are directly in, at most one more than ``limit``."""
        query = f"SELECT DISTINCT folder(path) FROM file WHERE {_IN_FOLDER} LIMIT :limit"
        values = {"source": source, "below": below, "limit": limit + 1}
        return {name for (name,) in self._database.execute(query, values)}

    def has_nested_folders(self, source: int, below: str) -> bool:
        """Whether an image is in a folder of a folder below a folder."""
        query = (
            f"SELECT EXISTS (SELECT 1 FROM file WHERE {_IN_FOLDER} AND substr(path, length(:below) + 1) LIKE '%/%/%')"
        )
        return bool(self._database.execute(query, {"source": source, "below": below}).fetchone()[0])

    def has_texts(self, source: int) -> bool:
        """Whether the source has a .txt file."""
        return bool(
            self._select_value(
                "SELECT EXISTS (SELECT 1 FROM file WHERE source = ? AND reason IS NULL AND ending(path) = 'txt')",
                source,
            )
        )

    def is_flat(self, source: int, below: str) -> bool:
        """Whether no file is in a folder of a folder below a folder."""
        return not self._select_value(
            "SELECT EXISTS (SELECT 1 FROM file WHERE source = ?1 AND reason IS NULL"
            " AND substr(path, 1, length(?2)) = ?2 AND substr(path, length(?2) + 1) LIKE '%/%/%')",
            source,
            below,
        )

    def count_labelled(self, source: int, formats: Sequence[str]) -> tuple[int, int]:
        """Count the images, and those of them with a text of the same name."""
        self._index_stems()
        marks = ",".join("?" * len(formats))
        query = (
            f"SELECT count(*), count({_LABEL_PATH}) FROM file AS image"
            f" WHERE source = ? AND reason IS NULL AND ending(path) IN ({marks})"
        )
        images, labelled = self._database.execute(query, (source, *formats)).fetchone()
        return images, labelled

    def attach_captures(self, source: int, formats: Sequence[str], *, with_records: bool, max_bytes: int) -> None:
        """Attach to each captured image its true label or, ``with_records``, the record of its answer.

        The documents of images are no longer files of their own.
        """
        marks = ",".join("?" * len(formats))
        images = f"source = ? AND reason IS NULL AND ending(path) IN ({marks})"
        endings = (LABEL_SUFFIX, RECORD_SUFFIX)
        for ending in endings if with_records else endings[:1]:
            self._database.execute(
                "UPDATE file SET label = text.path FROM file AS text WHERE text.source = file.source"
                f" AND text.reason IS NULL AND text.path = stem(file.path) || ? AND file.label IS NULL"
                f" AND file.source = ? AND file.reason IS NULL AND ending(file.path) IN ({marks})",
                (ending, source, *formats),
            )
        self._take_in_labels(source, max_bytes=max_bytes)
        for ending in endings:
            self._database.execute(
                f"DELETE FROM file WHERE source = ? AND path IN (SELECT stem(path) || ? FROM file WHERE {images})",
                (source, ending, source, *formats),
            )

    def attach_labels(self, source: int, formats: Sequence[str], *, max_bytes: int) -> None:
        """Attach to each image the text of the same name; attached texts are no longer files of their own."""
        self._index_stems()
        marks = ",".join("?" * len(formats))
        self._database.execute(
            f"UPDATE file AS image SET label = {_LABEL_PATH}"
            f" WHERE source = ? AND reason IS NULL AND ending(path) IN ({marks})",
            (source, *formats),
        )
        self._take_in_labels(source, max_bytes=max_bytes)

    def _take_in_labels(self, source: int, *, max_bytes: int) -> None:
        """Make the labels parts of their images: in the stamp, and no longer as files of their own."""
        self._database.execute(
            "UPDATE file AS image SET stamp = image.stamp || '|' || text.stamp || '|' || text.size,"
            " reason = iif(text.size > ?, 'BadLabel', NULL),"
            " detail = iif(text.size > ?, 'its label text has ' || text.size || ' bytes', NULL)"
            " FROM file AS text WHERE image.source = ? AND text.source = image.source AND text.path = image.label",
            (max_bytes, max_bytes, source),
        )
        self._database.execute(
            "DELETE FROM file WHERE source = ?1"
            " AND path IN (SELECT label FROM file WHERE source = ?1 AND label NOT NULL)",
            (source,),
        )

    def files(self, source: int) -> Iterator[PendingFile]:
        """Yield the files of a source that are not ignored; they may be assigned meanwhile."""
        return self._select_files("source = ? AND reason IS NULL", source)

    def assign(self, assignments: Iterable[Assignment]) -> None:
        """Store the classes and splits."""
        self._database.executemany(
            "UPDATE file SET class = ?, given = ?, reason = ?, detail = ? WHERE id = ?",
            ((a.class_name, a.split, a.reason, a.detail, a.id) for a in assignments),
        )

    def count_pending(self, source: int) -> int:
        """Count the files of a source that are not ignored."""
        return self._select_value(
            "SELECT count(*) FROM file WHERE source = ? AND sha IS NULL AND reason IS NULL", source
        )

    def _index_stems(self) -> None:
        self._database.execute("CREATE INDEX IF NOT EXISTS by_stem ON file (source, stem(path))")


class ClassQueries(_Queries):
    """The names of the classes."""

    def names(self) -> list[str]:
        """Return the classes of all files, sorted."""
        query = "SELECT DISTINCT class FROM file WHERE class NOT NULL ORDER BY 1"
        return [name for (name,) in self._database.execute(query)]

    def folder_names(self) -> list[str]:
        """Return the classes that folders name, or ``append``; not those of texts."""
        query = "SELECT DISTINCT class FROM file WHERE class NOT NULL AND label IS NULL ORDER BY 1"
        return [name for (name,) in self._database.execute(query)]

    def rename(self, names: Mapping[str, str | None]) -> None:
        """Rename each class to its value; delete the files of a class whose value is None."""
        self._database.execute("CREATE TEMP TABLE name (old TEXT PRIMARY KEY, new TEXT)")
        self._database.executemany("INSERT INTO name VALUES (?, ?)", names.items())
        self._database.execute("DELETE FROM file WHERE class IN (SELECT old FROM name WHERE new IS NULL)")
        self._database.execute("UPDATE file SET class = new FROM name WHERE class = old AND old != new")
        self._database.execute("DROP TABLE name")

    def move(self, new_class: Callable[[str], str | None]) -> int:
        """Give each file for whose path there is a new class that class; return their number."""
        self._database.create_function("new_class", 1, new_class, deterministic=True)
        return self._database.execute(
            "UPDATE file SET class = new_class(path) WHERE class NOT NULL AND new_class(path) NOT NULL"
        ).rowcount

    def paths_of_several_sources(self) -> Iterator[str]:
        """Yield the paths that files of several sources have."""
        query = (
            "SELECT path FROM file WHERE class NOT NULL GROUP BY path HAVING count(DISTINCT source) > 1 ORDER BY path"
        )
        return (path for (path,) in self._database.execute(query))

    def leave_out_small_captures(self, min_images: int) -> dict[str, int]:
        """Leave out the classes that only captures have, and too few of them; return their numbers of images."""
        small = (
            f"SELECT class FROM file WHERE class NOT NULL GROUP BY class HAVING count(sha) < {min_images}"
            f" AND min(coalesce(label LIKE '%{RECORD_SUFFIX}', 0))"
        )
        query = f"SELECT class, count(sha) FROM file WHERE class IN ({small}) GROUP BY class ORDER BY class"
        counts = dict(self._database.execute(query))
        self._database.execute(
            "UPDATE file SET sha = NULL, reason = 'NoLabel', detail = 'too few captures have its class, and nothing"
            f" else' WHERE sha NOT NULL AND class IN ({small})"
        )
        self._database.execute(f"UPDATE file SET class = NULL WHERE class IN ({small})")
        return {name: count for name, count in counts.items() if count}

    def find_untrained(self) -> tuple[str, str] | None:
        """Return a class that has images to validate or test with and none to train with, and its folder split."""
        row = self._database.execute(
            "SELECT class, given FROM file WHERE class NOT NULL AND given != 'train' AND class NOT IN"
            " (SELECT class FROM file WHERE class NOT NULL AND coalesce(given, 'train') = 'train')"
            " ORDER BY path LIMIT 1"
        ).fetchone()
        return (row[0], row[1]) if row else None


class InspectionQueries(_Queries):
    """The results of reading the files."""

    def __init__(self, database: sqlite3.Connection, *, seed: int) -> None:
        super().__init__(database)
        self._split_salt, self._shuffle_salt = f"split{seed}".encode(), f"order{seed}".encode()

    def count_pending(self) -> int:
        """Count the files that are neither usable nor ignored."""
        return self._select_value("SELECT count(*) FROM file WHERE sha IS NULL AND reason IS NULL")

    def has_labels(self) -> bool:
        """Whether the class of any image is in a text beside it."""
        return bool(self._select_value("SELECT EXISTS (SELECT 1 FROM file WHERE label NOT NULL)"))

    def pending(self) -> Iterator[PendingFile]:
        """Yield the files that are not inspected yet; results may be recorded meanwhile."""
        return self._select_files("sha IS NULL AND reason IS NULL")

    def record(self, inspections: Iterable[Inspection]) -> int:
        """Store the results for files that did not change; return their number."""
        changes_before = self._database.total_changes
        self._database.executemany(
            "UPDATE file SET sha = ?, extension = ?, class = coalesce(?, class), reason = ?, detail = ?,"
            " label_text = ?, fingerprint = ?, issues = ?, lot = ?, place = ?"
            " WHERE source = ? AND path = ? AND size = ? AND stamp = ? AND reason IS NULL",
            map(self._update_values, inspections),
        )
        return self._database.total_changes - changes_before

    def count_by_class(self) -> dict[str, int]:
        """Count the usable images of each class; 0 where all of its files are ignored."""
        query = "SELECT class, count(sha) FROM file WHERE class NOT NULL GROUP BY class ORDER BY class"
        return dict(self._database.execute(query))

    def _update_values(self, inspection: Inspection) -> tuple[object, ...]:
        sha256 = inspection.sha256
        split_rank = sha256 and hashlib.sha256(self._split_salt + sha256).digest()
        shuffle_rank = sha256 and hashlib.sha256(self._shuffle_salt + sha256).digest()
        return (*inspection[4:], split_rank, shuffle_rank, *inspection[:4])


class LabelQueries(_Queries):
    """The label texts of images, and the classes that they name."""

    def distinct(self, source: int) -> Iterator[bytes]:
        """Yield the texts of a source, each once, in a fixed order."""
        query = "SELECT DISTINCT label_text FROM file WHERE source = ? AND label_text NOT NULL ORDER BY 1"
        for (text,) in self._database.execute(query, (source,)):
            yield text

    def resolve(self, source: int, read: Callable[[bytes], str | tuple[str, str]]) -> None:
        """Give each image of a source with a text its class, or ignore it.

        Args:
            source: its number.
            read: returns the class that a text names, or a reason and a sentence.
        """

        def read_class(text: bytes) -> str | None:
            label = read(text)
            return label if isinstance(label, str) else None

        def read_detail(text: bytes) -> str | None:
            label = read(text)
            return None if isinstance(label, str) else label[1]

        def read_reason(text: bytes) -> str | None:
            label = read(text)
            return None if isinstance(label, str) else label[0]

        self._database.create_function("label_class", 1, read_class, deterministic=True)
        self._database.create_function("label_reason", 1, read_reason, deterministic=True)
        self._database.create_function("label_detail", 1, read_detail, deterministic=True)
        self._database.execute(
            "UPDATE file SET class = label_class(label_text) WHERE source = ? AND label_text NOT NULL", (source,)
        )
        self._database.execute(
            "UPDATE file SET sha = NULL, extension = NULL, reason = label_reason(label_text),"
            " detail = label_detail(label_text)"
            " WHERE source = ? AND label_text NOT NULL AND class IS NULL AND reason IS NULL",
            (source,),
        )

    def count_unusable(self, *, limit: int) -> list[tuple[str, int]]:
        """Return the sentences about texts that name no class, with the number of images, the most frequent first."""
        query = (
            "SELECT detail, count(*) FROM file WHERE reason = 'BadLabel' AND label_text NOT NULL GROUP BY detail"
            " ORDER BY 2 DESC, 1 LIMIT ?"
        )
        return list(self._database.execute(query, (limit,)))


class SplitQueries(_Queries):
    """The split of each image."""

    def folder_splits(self) -> set[str]:
        """Return the splits that folders are named as."""
        query = "SELECT DISTINCT given FROM file WHERE given NOT NULL AND reason IS NULL"
        return {split for (split,) in self._database.execute(query)}

    def has_free_files(self) -> bool:
        """Whether files are in no split folder."""
        query = "SELECT EXISTS (SELECT 1 FROM file WHERE given IS NULL AND reason IS NULL)"
        return bool(self._select_value(query))

    def release_train_folders(self) -> None:
        """Treat the files under ``train/`` as files in no split folder."""
        self._database.execute("UPDATE file SET given = NULL WHERE given = 'train'")

    def keep(self, sides: Iterable[tuple[bytes, str]]) -> None:
        """Store the splits that images had in the version before, by their digests."""
        self._database.executemany("INSERT OR IGNORE INTO side VALUES (?, ?)", sides)

    def train_with_guesses(self) -> None:
        """Let captures without a true label train only, and leave out those whose content has a class for certain.

        A guess must neither be what others are judged by, nor contradict a label.
        """
        guess = f"label LIKE '%{RECORD_SUFFIX}' AND label NOT LIKE '%{LABEL_SUFFIX}'"
        self._database.execute(
            "UPDATE file SET sha = NULL, reason = 'NoLabel', detail = 'the same image has a label elsewhere'"
            f" WHERE sha NOT NULL AND {guess}"
            f" AND sha IN (SELECT sha FROM file WHERE sha NOT NULL AND NOT coalesce({guess}, 0))"
        )
        self._database.execute(f"UPDATE file SET given = 'train' WHERE sha NOT NULL AND {guess}")

    def assign(self, *, validation: float, test: float) -> None:
        """Give each image its split: that of its folder, that of the version before, or that of its split rank.

        Args:
            validation: share of the ranks for validation, the lowest ones.
            test: share of the next ones for test.
        """
        validation_end, test_end = _rank_at(validation), _rank_at(validation, test)
        self._database.execute(
            "UPDATE file SET split = coalesce(given, (SELECT split FROM side WHERE side.sha = file.sha),"
            " iif(lot < ?, 'validation', iif(lot < ?, 'test', 'train'))) WHERE sha NOT NULL",
            (validation_end, test_end),
        )
        self._database.execute("CREATE INDEX by_lot ON file (class, lot, path, source) WHERE sha NOT NULL")

    def count_kept(self) -> int:
        """Count the images whose split is that of the version before."""
        return self._select_value(
            "SELECT count(*) FROM file WHERE sha NOT NULL AND given IS NULL AND sha IN (SELECT sha FROM side)"
        )

    def fill_classes(self) -> None:
        """Give each class of two or more free images one to train with and one for validation."""
        for (name,) in self._classes_without("train"):
            self._move(name, "split != 'train' ORDER BY lot DESC", "train")
        for (name,) in self._classes_without("validation"):
            # An image that has not trained yet, if there is one.
            order = "split = 'train' ORDER BY EXISTS (SELECT 1 FROM side WHERE side.sha = file.sha), lot"
            if self._count_trained(name) > 1:
                self._move(name, order, "validation")

    def sides(self) -> Iterator[tuple[bytes, str]]:
        """Yield the digest and the split of each image of this version and of those before it, sorted."""
        # An image in several split folders counts as one that trained.
        query = (
            "SELECT sha, iif(sum(split = 'train'), 'train', min(split)) FROM"
            " (SELECT sha, split FROM file WHERE sha NOT NULL UNION ALL SELECT sha, split FROM side"
            "  WHERE sha NOT IN (SELECT sha FROM file WHERE sha NOT NULL)) GROUP BY sha ORDER BY sha"
        )
        yield from self._database.execute(query)

    def _classes_without(self, split: str) -> list[tuple[str]]:
        query = (
            "SELECT class FROM file WHERE sha NOT NULL GROUP BY class"
            " HAVING sum(split = ?) = 0 AND sum(given IS NULL) > 0 ORDER BY class"
        )
        return self._database.execute(query, (split,)).fetchall()

    def _count_trained(self, class_name: str) -> int:
        """Count the different images that a class trains with."""
        return self._select_value(
            "SELECT count(DISTINCT lot) FROM file WHERE sha NOT NULL AND class = ? AND split = 'train'", class_name
        )

    def _move(self, class_name: str, choice: str, split: str) -> None:
        """Move one content of a class, with all of its copies, to another split."""
        self._database.execute(
            "UPDATE file SET split = ?1 WHERE sha NOT NULL AND given IS NULL AND lot ="
            f" (SELECT lot FROM file WHERE sha NOT NULL AND given IS NULL AND class = ?2 AND {choice} LIMIT 1)",
            (split, class_name),
        )


_SAMPLE_COLUMNS = "source, path, class, sha, extension"


class SampleQueries(_Queries):
    """The usable images."""

    def count(self) -> dict[tuple[str, str], int]:
        """Count the images of each class and split."""
        query = "SELECT class, split, count(*) FROM file WHERE sha NOT NULL GROUP BY 1, 2 ORDER BY 1, 2"
        return {(name, split): count for name, split, count in self._database.execute(query)}

    def contents(self) -> Iterator[tuple[str, str, bytes]]:
        """Yield class, split and digest of every image, sorted."""
        query = "SELECT class, split, sha FROM file WHERE sha NOT NULL ORDER BY class, split, sha"
        yield from self._database.execute(query)

    def shuffled(self, split: str) -> Iterator[Sample]:
        """Yield the images of a split in a fixed order that mixes the classes."""
        self._database.execute(
            "CREATE INDEX IF NOT EXISTS by_place ON file (split, place, path, source) WHERE sha NOT NULL"
        )
        query = f"SELECT {_SAMPLE_COLUMNS} FROM file WHERE sha NOT NULL AND split = ? ORDER BY place, path, source"
        for row in self._database.execute(query, (split,)):
            yield Sample(*row)

    def examples(self, class_name: str, count: int) -> list[Sample]:
        """Return a few images of a class."""
        query = (
            f"SELECT {_SAMPLE_COLUMNS} FROM file WHERE sha NOT NULL AND class = ? ORDER BY lot, path, source LIMIT ?"
        )
        return [Sample(*row) for row in self._database.execute(query, (class_name, count))]


class IgnoredQueries(_Queries):
    """The files that are not used."""

    def files(self) -> Iterator[IgnoredFile]:
        """Yield all of them, sorted by path."""
        query = "SELECT path, reason, detail FROM file WHERE reason NOT NULL ORDER BY path, source"
        yield from map(IgnoredFile._make, self._database.execute(query))

    def count_by_reason(self, source: int | None = None) -> dict[str, int]:
        """Count them for each reason, of one source or of all."""
        query = (
            "SELECT reason, count(*) FROM file WHERE reason NOT NULL AND coalesce(source = ?, 1)"
            " GROUP BY reason ORDER BY reason"
        )
        return dict(self._database.execute(query, (source,)))

    def count_by_class(self) -> dict[str, Counter[str]]:
        """Count them for each class and reason."""
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        query = "SELECT class, reason, count(*) FROM file WHERE class NOT NULL AND reason NOT NULL GROUP BY 1, 2"
        for name, reason, count in self._database.execute(query):
            counts[name][reason] = count
        return counts


def _rank_at(*shares: float) -> bytes:
    """Return the split rank below which the sum of some shares of all ranks lie; shares count as decimals."""
    return int(sum(map(Fraction, map(str, shares))) * 2**64).to_bytes(8)


def _parent_name(path: str) -> str:
    return path.rpartition("/")[0].rpartition("/")[2]


def _outer_folder(folder: str) -> str:
    return folder[: folder.rstrip("/").rfind("/") + 1]


def _stem(path: str) -> str:
    folder, slash, name = path.rpartition("/")
    stem = name.rpartition(".")[0]
    return f"{folder}{slash}{stem or name}"
