"""Archives as sources of images: checked from end to end before anything in them is used, never unpacked.

A .zip is read where it lies. A .tar.gz has no places to read from, so it becomes the .tar inside it, still one file.
No file is ever made by a name that stands in an archive.
"""

from __future__ import annotations

import gzip
import os
import sqlite3
import tarfile
import threading
import unicodedata
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple, cast

from bloomery_trainer.errors import BadConfig, BadData
from bloomery_trainer.prepare.sources import zip_reader
from bloomery_trainer.prepare.sources.base import DamagedFile
from bloomery_trainer.prepare.sources.download import gib
from bloomery_trainer.storage import StoredFile

ENDINGS = (".zip", ".tar.gz", ".tgz")
MEMBERS = 2_000_000
"""Files in one archive, at most."""

_UNPACKED = 4
"""How many times rules.maxArchiveBytes an archive may hold unpacked."""

_RATIO = 100
"""Images hardly pack: what shrinks to less than a hundredth was made to fill a disk."""

_HARMLESS = 256 * 1024 * 1024
"""Up to so many bytes no ratio is looked at: a small archive of drawings may shrink to very little."""

_LONGEST_HEADER = 1024 * 1024
_CHUNK = 1024 * 1024
_AS_IT_IS = -1
"""The method of a member that lies in the file as it is, without a checksum."""

_LITTER = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})
_SPLITS = frozenset({"train", "validation", "val", "test"})


class _Member(NamedTuple):
    path: str
    size: int
    packed: int
    offset: int
    method: int
    crc: int


def is_archive(uri: str) -> bool:
    """Whether the address is that of an archive, by its ending."""
    return uri.partition("?")[0].lower().endswith(ENDINGS)


def is_litter(path: str) -> bool:
    """Whether a file is one that computers leave behind, no data of anybody's."""
    return any(part.startswith(".") or part in _LITTER for part in path.split("/"))


class Archive:
    """An archive on the local disk, listed in a small database beside it."""

    def __init__(self, path: Path, *, uri: str, stamp: str, limit: int) -> None:
        """Checks the archive at `path`; what it needs beside it, it leaves beside it.

        Args:
            path: the file.
            uri: what people call it.
            stamp: a mark of its content.
            limit: rules.maxArchiveBytes.
        """
        self.uri = uri
        self._stamp = stamp
        self._table = path.with_suffix(".members")
        self._members = sqlite3.connect(self._table, check_same_thread=False)
        self._members.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
            "CREATE TABLE member (path TEXT PRIMARY KEY, size INTEGER, packed INTEGER, offset INTEGER,"
            " method INTEGER, crc INTEGER) WITHOUT ROWID"
        )
        self._path = self._checked(path, limit=limit)
        self._top = self._common_top()
        self._lock = threading.Lock()
        self._descriptor = os.open(self._path, os.O_RDONLY)

    def __getstate__(self) -> tuple[str, str, Path, Path, str]:
        """What another process needs to read the same files."""
        return self.uri, self._stamp, self._table, self._path, self._top

    def __setstate__(self, state: tuple[str, str, Path, Path, str]) -> None:
        """Opens them there."""
        self.uri, self._stamp, self._table, self._path, self._top = state
        self._members = sqlite3.connect(self._table, check_same_thread=False)
        self._lock = threading.Lock()
        self._descriptor = os.open(self._path, os.O_RDONLY)

    @property
    def is_remote(self) -> bool:
        """Never: it was fetched."""
        return False

    def list(self) -> Iterator[StoredFile]:
        """Yields all files but litter, a common top folder left out of their paths."""
        for path, size in self._members.execute("SELECT path, size FROM member ORDER BY path"):
            yield StoredFile(path.removeprefix(self._top), size, self._stamp)

    def read(self, path: str) -> bytes:
        """The bytes of one file."""
        with self._lock:
            row = self._members.execute("SELECT * FROM member WHERE path = ?", (self._top + path,)).fetchone()
        if row is None:
            raise FileNotFoundError(path)
        member = _Member(*row)
        if member.method == _AS_IT_IS:
            data = os.pread(self._descriptor, member.size, member.offset)
            if len(data) != member.size:
                raise DamagedFile("the archive ends before it does")
            return data
        try:
            return zip_reader.read_member(
                self._descriptor,
                size=member.size, packed=member.packed, offset=member.offset, method=member.method, crc=member.crc,
            )  # fmt: skip
        except zip_reader.Damaged as error:
            raise DamagedFile(f"inside the archive, {error}") from error

    def _checked(self, path: Path, *, limit: int) -> Path:
        unpacked = _UNPACKED * limit
        try:
            if self.uri.lower().endswith(".zip"):
                self._add(_zip_members(path, unpacked=unpacked))
            else:
                path = _gunzipped(path, unpacked=unpacked)
                self._add(_tar_members(path))
        except (zip_reader.Damaged, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise BadData("BadArchive", f"{self.uri} cannot be read: {error}") from error
        except _Unsafe as error:
            raise BadData("UnsafeArchive", f"{self.uri} is refused: {error}") from error
        return path

    def _add(self, members: Iterable[_Member]) -> None:
        for count, member in enumerate(members, start=1):
            if count > MEMBERS:
                raise _Unsafe(f"it holds more than {MEMBERS} files")
            if is_litter(member.path):
                continue
            try:
                self._members.execute("INSERT INTO member VALUES (?, ?, ?, ?, ?, ?)", member)
            except sqlite3.IntegrityError:
                raise _Unsafe(f"it holds two files named {member.path!r}") from None
        self._members.commit()

    def _common_top(self) -> str:
        """The one folder around everything, as packers of folders make it, with its slash; else nothing."""
        first, last = self._members.execute("SELECT min(path), max(path) FROM member").fetchone()
        if first is None:
            return ""
        top, slash, _ = first.partition("/")
        # Paths are ordered, so what first and last have in common all have.
        if not slash or not last.startswith(f"{top}/") or top in _SPLITS:
            return ""
        deeper = self._members.execute(
            "SELECT EXISTS (SELECT 1 FROM member WHERE instr(substr(path, ?), '/'))", (len(top) + 2,)
        ).fetchone()[0]
        # A folder that holds images only is a class.
        return f"{top}/" if deeper else ""


class _Unsafe(Exception):
    """The archive would do harm, or was made to."""


def _zip_members(path: Path, *, unpacked: int) -> Iterator[_Member]:
    length, packed, size = path.stat().st_size, 0, 0
    for entry in zip_reader.entries(path):
        name = _safe(entry.name)
        if entry.problem:
            raise _Unsafe(f"{name!r} {entry.problem}")
        packed, size = packed + entry.packed, size + entry.size
        if packed > length:
            raise _Unsafe("its files lie over each other")
        _refuse_bomb(size, packed=length, unpacked=unpacked)
        yield _Member(name, entry.size, entry.packed, entry.offset, entry.method, entry.crc)


def _tar_members(path: Path) -> Iterator[_Member]:
    with path.open("rb") as file, tarfile.open(mode="r:", fileobj=cast(IO[bytes], _Headers(file))) as tar:
        while (member := tar.next()) is not None:
            # The list that tarfile keeps would grow with the archive.
            tar.members.clear()  # type: ignore[attr-defined]
            if member.isdir():
                continue
            name = _safe(member.name)
            if not member.isreg() or member.sparse is not None:
                raise _Unsafe(f"{name!r} is a link or a device, not a file")
            yield _Member(name, member.size, member.size, member.offset_data, _AS_IT_IS, 0)


class _Headers:
    """A file of which tarfile reads headers only, none of them larger than is sound."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.tell, self.seek = file.tell, file.seek

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _LONGEST_HEADER:
            raise _Unsafe("one of its headers is far too large")
        return self._file.read(size)


def _gunzipped(path: Path, *, unpacked: int) -> Path:
    target, length, size = path.with_suffix(".tar"), path.stat().st_size, 0
    try:
        with gzip.open(path) as packed, target.open("wb") as file:
            while chunk := packed.read(_CHUNK):
                size += len(chunk)
                _refuse_bomb(size, packed=length, unpacked=unpacked)
                file.write(chunk)
    except OSError as error:
        if isinstance(error, gzip.BadGzipFile) or error.errno is None:
            raise
        raise BadConfig("ScratchTooSmall", f"the unpacked archive cannot be kept: {error.strerror}") from error
    path.unlink()
    return target


def _refuse_bomb(size: int, *, packed: int, unpacked: int) -> None:
    if size > unpacked:
        raise _Unsafe(f"unpacked it is more than {gib(unpacked)}, {_UNPACKED} times rules.maxArchiveBytes")
    if size > max(_HARMLESS, _RATIO * packed):
        raise _Unsafe(f"unpacked it is more than {_RATIO} times its size, as no images are")


def _safe(name: str) -> str:
    """The member's path; raises _Unsafe where it leads out of the archive or could be taken for another."""
    name = name.removeprefix("./")
    parts = name.split("/")
    if "\\" in name:
        raise _Unsafe(f"the name {name!r} has a backslash; pack it with '/' between folders")
    if name.startswith("/") or (len(name) > 1 and name[1] == ":"):
        raise _Unsafe(f"the name {name!r} is an absolute path")
    if ".." in parts:
        raise _Unsafe(f"the name {name!r} leads out of the archive")
    if not all(parts) or "." in parts or any(unicodedata.category(character) == "Cc" for character in name):
        raise _Unsafe(f"the name {name!r} is not one of a file")
    return unicodedata.normalize("NFC", name)
