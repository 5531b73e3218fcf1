"""Archives as sources of images: checked from end to end before a file is used, and never unpacked to files.

A ``.zip`` is read in place. A ``.tar.gz`` has no random access, so it is decompressed to one ``.tar`` file. No name in
an archive ever becomes the name of a file on this disk.
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
from bloomery_trainer.prepare.sources.base import DamagedFile, is_junk_file
from bloomery_trainer.prepare.sources.download import format_bytes
from bloomery_trainer.prepare.split_folders import folder_split
from bloomery_trainer.storage import StoredFile

SUFFIXES = (".zip", ".tar.gz", ".tgz")
MAX_MEMBERS = 2_000_000
"""Files in one archive."""

_MAX_UNPACKED_FACTOR = 4
"""An archive may hold this many times ``rules.maxArchiveBytes`` unpacked."""

_MAX_COMPRESSION_RATIO = 100
"""Images hardly compress: a file that shrinks to less than a hundredth was made to fill a disk."""

_RATIO_CHECK_MIN_BYTES = 256 * 1024 * 1024
"""Unpacked size up to which the ratio is not checked: a small archive of drawings may compress very well."""

_MAX_TAR_HEADER_BYTES = 1024 * 1024
_CHUNK_BYTES = 1024 * 1024
_TAR_METHOD = -1
"""Compression method of a member of a tar: none, and no checksum."""

_MEMBER_TABLE = (
    "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
    "CREATE TABLE member (path TEXT PRIMARY KEY, size INTEGER, packed INTEGER, offset INTEGER,"
    " method INTEGER, crc INTEGER) WITHOUT ROWID"
)


class _Member(NamedTuple):
    path: str
    size: int
    packed: int
    offset: int
    method: int
    crc: int


def is_archive(uri: str) -> bool:
    """Whether the URI ends as one of an archive."""
    return uri.partition("?")[0].lower().endswith(SUFFIXES)


class Archive:
    """An archive on the local disk, with a SQLite table of its members beside it."""

    def __init__(self, path: Path, *, uri: str, stamp: str, max_archive_bytes: int) -> None:
        """Check the archive at ``path`` and list its members.

        Args:
            path: the file; the table of members and the decompressed tar are written beside it.
            uri: its address, for messages.
            stamp: identifies its content.
            max_archive_bytes: ``rules.maxArchiveBytes``.
        """
        self.uri = uri
        self._stamp = stamp
        self._table = path.with_suffix(".members")
        self._members = sqlite3.connect(self._table, check_same_thread=False)
        self._members.executescript(_MEMBER_TABLE)
        self._path = self._list_members(path, max_unpacked_bytes=_MAX_UNPACKED_FACTOR * max_archive_bytes)
        self._top = self._common_top_folder()
        self._lock = threading.Lock()
        self._descriptor = os.open(self._path, os.O_RDONLY)

    def __getstate__(self) -> tuple[str, str, Path, Path, str]:
        """Return the state from which another process on this machine can read the same files."""
        return self.uri, self._stamp, self._table, self._path, self._top

    def __setstate__(self, state: tuple[str, str, Path, Path, str]) -> None:
        """Open the files of the state."""
        self.uri, self._stamp, self._table, self._path, self._top = state
        self._members = sqlite3.connect(self._table, check_same_thread=False)
        self._lock = threading.Lock()
        self._descriptor = os.open(self._path, os.O_RDONLY)

    @property
    def is_remote(self) -> bool:
        """Always false: the archive is on the local disk."""
        return False

    def list(self) -> Iterator[StoredFile]:
        """Yield all files except junk, without a common top folder in their paths."""
        for path, size in self._members.execute("SELECT path, size FROM member ORDER BY path"):
            yield StoredFile(path.removeprefix(self._top), size, self._stamp)

    def read(self, path: str) -> bytes:
        """Return the content of one file."""
        with self._lock:
            row = self._members.execute("SELECT * FROM member WHERE path = ?", (self._top + path,)).fetchone()
        if row is None:
            raise FileNotFoundError(path)
        member = _Member(*row)
        if member.method == _TAR_METHOD:
            data = os.pread(self._descriptor, member.size, member.offset)
            if len(data) != member.size:
                raise DamagedFile("the archive is cut short")
            return data
        try:
            return zip_reader.read_member(
                self._descriptor,
                size=member.size, packed=member.packed, offset=member.offset, method=member.method, crc=member.crc,
            )  # fmt: skip
        except zip_reader.DamagedZip as error:
            raise DamagedFile(f"inside the archive, {error}") from error

    def _list_members(self, path: Path, *, max_unpacked_bytes: int) -> Path:
        """Check all members and add them to the table; return the file that holds them, a decompressed tar or a zip."""
        try:
            if self.uri.lower().endswith(".zip"):
                self._add_members(_read_zip_members(path, max_unpacked_bytes=max_unpacked_bytes))
            else:
                path = _decompress_tar(path, max_unpacked_bytes=max_unpacked_bytes)
                self._add_members(_read_tar_members(path))
        except (zip_reader.DamagedZip, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise BadData("BadArchive", f"{self.uri} cannot be read: {error}") from error
        except _UnsafeArchive as error:
            raise BadData("UnsafeArchive", f"{self.uri} is refused: {error}") from error
        return path

    def _add_members(self, members: Iterable[_Member]) -> None:
        for count, member in enumerate(members, start=1):
            if count > MAX_MEMBERS:
                raise _UnsafeArchive(f"it holds more than {MAX_MEMBERS} files")
            if is_junk_file(member.path):
                continue
            try:
                self._members.execute("INSERT INTO member VALUES (?, ?, ?, ?, ?, ?)", member)
            except sqlite3.IntegrityError:
                raise _UnsafeArchive(f"it holds two files named {member.path!r}") from None
        self._members.commit()

    def _common_top_folder(self) -> str:
        """Return the one folder around all files, with its slash, or an empty string.

        Tools that pack a folder put such a folder into the archive. A folder that only holds images is a class, and
        one that is named as a split is a split.
        """
        first, last = self._members.execute("SELECT min(path), max(path) FROM member").fetchone()
        if first is None:
            return ""
        top, slash, _ = first.partition("/")
        # The paths are sorted: a prefix of the first and the last is one of all.
        if not slash or not last.startswith(f"{top}/") or folder_split(top) is not None:
            return ""
        has_folders = self._members.execute(
            "SELECT EXISTS (SELECT 1 FROM member WHERE instr(substr(path, ?), '/'))", (len(top) + 2,)
        ).fetchone()[0]
        return f"{top}/" if has_folders else ""


class _UnsafeArchive(Exception):
    """The archive would do harm, or was made to."""


def _read_zip_members(path: Path, *, max_unpacked_bytes: int) -> Iterator[_Member]:
    archive_bytes, packed, size = path.stat().st_size, 0, 0
    for entry in zip_reader.read_entries(path):
        name = _safe_name(entry.name)
        if entry.problem:
            raise _UnsafeArchive(f"{name!r} {entry.problem}")
        packed, size = packed + entry.packed, size + entry.size
        if packed > archive_bytes:
            raise _UnsafeArchive("its files overlap")
        _refuse_bomb(size, archive_bytes=archive_bytes, max_unpacked_bytes=max_unpacked_bytes)
        yield _Member(name, entry.size, entry.packed, entry.offset, entry.method, entry.crc)


def _read_tar_members(path: Path) -> Iterator[_Member]:
    with path.open("rb") as file, tarfile.open(mode="r:", fileobj=cast(IO[bytes], _TarHeaders(file))) as tar:
        while (member := tar.next()) is not None:
            # The list that tarfile keeps would grow with the archive.
            tar.members.clear()  # type: ignore[attr-defined]
            if member.isdir():
                continue
            name = _safe_name(member.name)
            if not member.isreg() or member.sparse is not None:
                raise _UnsafeArchive(f"{name!r} is a link or a device, not a file")
            yield _Member(name, member.size, member.size, member.offset_data, _TAR_METHOD, 0)


class _TarHeaders:
    """A tar file of which tarfile reads only the headers; refuses a header of unreasonable size."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.tell, self.seek = file.tell, file.seek

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MAX_TAR_HEADER_BYTES:
            raise _UnsafeArchive("one of its headers is far too large")
        return self._file.read(size)


def _decompress_tar(path: Path, *, max_unpacked_bytes: int) -> Path:
    """Replace a ``.tar.gz`` by its tar; return the tar's path."""
    target, archive_bytes, size = path.with_suffix(".tar"), path.stat().st_size, 0
    try:
        with gzip.open(path) as packed, target.open("wb") as file:
            while chunk := packed.read(_CHUNK_BYTES):
                size += len(chunk)
                _refuse_bomb(size, archive_bytes=archive_bytes, max_unpacked_bytes=max_unpacked_bytes)
                file.write(chunk)
    except OSError as error:
        if isinstance(error, gzip.BadGzipFile) or error.errno is None:
            raise
        raise BadConfig("ScratchTooSmall", f"the unpacked archive cannot be written: {error.strerror}") from error
    path.unlink()
    return target


def _refuse_bomb(size: int, *, archive_bytes: int, max_unpacked_bytes: int) -> None:
    if size > max_unpacked_bytes:
        raise _UnsafeArchive(
            f"unpacked it has more than {format_bytes(max_unpacked_bytes)}, "
            f"{_MAX_UNPACKED_FACTOR} times rules.maxArchiveBytes"
        )
    if size > max(_RATIO_CHECK_MIN_BYTES, _MAX_COMPRESSION_RATIO * archive_bytes):
        raise _UnsafeArchive(
            f"unpacked it has more than {_MAX_COMPRESSION_RATIO} times its size; images do not compress so well"
        )


def _safe_name(name: str) -> str:
    """Return the member's path.

    Raises:
        _UnsafeArchive: the path leads out of the archive, or could be taken for another one.
    """
    name = name.removeprefix("./")
    parts = name.split("/")
    if "\\" in name:
        raise _UnsafeArchive(f"the name {name!r} has a backslash; pack it with '/' between folders")
    if name.startswith("/") or (len(name) > 1 and name[1] == ":"):
        raise _UnsafeArchive(f"the name {name!r} is an absolute path")
    if ".." in parts:
        raise _UnsafeArchive(f"the name {name!r} leads out of the archive")
    if not all(parts) or "." in parts or any(unicodedata.category(character) == "Cc" for character in name):
        raise _UnsafeArchive(f"the name {name!r} is not a valid path")
    return unicodedata.normalize("NFC", name)
