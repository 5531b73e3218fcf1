"""Archives as sources of images: checked from end to end before a file is used, and never unpacked to files.

A ``.zip`` is read in place. A ``.tar.gz`` has no random access, so it is decompressed to one ``.tar`` file. No name in
an archive ever becomes the name of a file on this disk. A member that cannot be used is left out by its name; an
archive of nothing else is refused.
"""

from __future__ import annotations

import gzip
import os
import sqlite3
import tarfile
import threading
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple, cast

from bloomery_model.file_names import to_printable
from bloomery_model.sources import zip_reader
from bloomery_model.sources.base import DamagedFile
from bloomery_model.sources.download import format_bytes
from bloomery_model.sources.encoding_names import Encoding
from bloomery_model.sources.encodings import is_utf8
from bloomery_model.sources.left_out import LeftOut
from bloomery_model.sources.names import BadName, NameDecoder, RawName, check_path, is_junk_name
from bloomery_model.split_folders import folder_split
from bloomery_model.stores import StoredFile
from bloomery_model.task_errors import BadConfig, BadData

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

_NAMED_DUPLICATES = 3

_TABLES = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE entry (name BLOB, is_utf8 INTEGER, is_unix INTEGER, size INTEGER, packed INTEGER, offset INTEGER,
    method INTEGER, crc INTEGER, problem TEXT, link BLOB);
CREATE TABLE member (path TEXT PRIMARY KEY, size INTEGER, packed INTEGER, offset INTEGER, method INTEGER, crc INTEGER,
    name BLOB) WITHOUT ROWID;
CREATE TABLE left_out (path TEXT, reason TEXT, detail TEXT);
"""


class _Entry(NamedTuple):
    """A file as the archive describes it.

    Attributes:
        name: its bytes; ``is_utf8`` and ``is_unix`` are those of a :class:`RawName`.
        problem: why it cannot be used.
        link: the name of an earlier file with the same content, in place of a content of its own.
    """

    name: bytes
    is_utf8: bool
    is_unix: bool
    size: int
    packed: int
    offset: int
    method: int
    crc: int
    problem: str | None = None
    link: bytes | None = None


class _Member(NamedTuple):
    """A file that can be used, under its path."""

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

    def __init__(
        self, path: Path, *, uri: str, stamp: str, max_archive_bytes: int, encoding: Encoding | None = None
    ) -> None:
        """Check the archive at ``path`` and list its members.

        Args:
            path: the file; the table of members and the decompressed tar are written beside it.
            uri: its address, for messages.
            stamp: identifies its content.
            max_archive_bytes: ``rules.maxArchiveBytes``.
            encoding: of names that declare none; None to choose one.
        """
        self.uri = uri
        self.warnings: Sequence[str] = ()
        self._stamp = stamp
        self._encoding = encoding
        self._table = path.with_suffix(".members")
        self._members = sqlite3.connect(self._table, check_same_thread=False)
        self._members.executescript(_TABLES)
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
        self.warnings = ()
        self._members = sqlite3.connect(self._table, check_same_thread=False)
        self._lock = threading.Lock()
        self._descriptor = os.open(self._path, os.O_RDONLY)

    @property
    def is_remote(self) -> bool:
        """Always false: the archive is on the local disk."""
        return False

    def list(self) -> Iterator[StoredFile | LeftOut]:
        """Yield all files except junk, without a common top folder in their paths."""
        for path, size in self._members.execute("SELECT path, size FROM member ORDER BY path"):
            yield StoredFile(path.removeprefix(self._top), size, self._stamp)
        for path, reason, detail in self._members.execute("SELECT * FROM left_out"):
            yield LeftOut(path.removeprefix(self._top), reason, detail)

    def read(self, path: str) -> bytes:
        """Return the content of one file."""
        with self._lock:
            member = self._find_member(self._top + path)
        if member is None:
            raise FileNotFoundError(path)
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
                self._add_entries(_read_zip_entries(path, max_unpacked_bytes=max_unpacked_bytes))
            else:
                path = _decompress_tar(path, max_unpacked_bytes=max_unpacked_bytes)
                self._add_entries(_read_tar_entries(path))
            self._name_members(max_linked_bytes=max_unpacked_bytes)
        except (zip_reader.DamagedZip, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise BadData("BadArchive", f"{self.uri} cannot be read: {error}") from error
        except _UnsafeArchive as error:
            raise BadData("UnsafeArchive", f"{self.uri} is refused: {error}") from error
        return path

    def _add_entries(self, entries: Iterable[_Entry]) -> None:
        for count, entry in enumerate(entries, start=1):
            if count > MAX_MEMBERS:
                raise _UnsafeArchive(f"it holds more than {MAX_MEMBERS} files")
            self._members.execute("INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", entry)

    def _name_members(self, *, max_linked_bytes: int) -> None:
        """Decode the names of all entries, and make members of those that can be used."""
        decoder = NameDecoder.for_names(_UndeclaredNames(self._members), self._encoding)
        duplicates: dict[str, None] = {}
        for row in self._members.execute("SELECT * FROM entry ORDER BY rowid"):
            entry = _Entry._make(row)
            try:
                name = decoder.decode(RawName(entry.name, entry.is_utf8, entry.is_unix))
                if is_junk_name(name):
                    continue
                member = self._resolve_member(check_path(name), entry, decoder)
                if entry.link is not None:
                    max_linked_bytes -= member.size
                if self._add_member(member, entry.name):
                    duplicates[member.path] = None
            except BadName as error:
                self._leave_out(to_printable(entry.name), reason="BadName", detail=str(error))
            except _UnusableMember as error:
                self._leave_out(error.path, reason=error.reason, detail=str(error))
            if max_linked_bytes < 0:
                raise _UnsafeArchive("its links repeat the same files too often")
        self._members.executescript("DROP TABLE entry")
        self._members.commit()
        self.warnings = [*decoder.warnings(self.uri), *_duplicate_warnings(self.uri, list(duplicates))]
        self._require_members()

    def _resolve_member(self, path: str, entry: _Entry, decoder: NameDecoder) -> _Member:
        if entry.link is not None:
            with suppress(BadName):
                target = decoder.decode(RawName(entry.link, entry.is_utf8, entry.is_unix))
                linked = self._find_member(check_path(target))
                if linked is not None:
                    return linked._replace(path=path)
        if entry.problem is not None:
            raise _UnusableMember(path, f"{path!r} {entry.problem}", reason="BadMember")
        return _Member(path, entry.size, entry.packed, entry.offset, entry.method, entry.crc)

    def _add_member(self, member: _Member, name: bytes) -> bool:
        """Add a member; return whether it replaces an earlier one of the same name."""
        earlier = self._members.execute("SELECT name FROM member WHERE path = ?", (member.path,)).fetchone()
        if earlier is not None and earlier[0] != name:
            sentence = f"another name in the archive also reads as {member.path!r}"
            raise _UnusableMember(f"{member.path} (2)", sentence, reason="DuplicateName")
        # The last of several files of one name counts, as it does when an archive is unpacked.
        self._members.execute("INSERT OR REPLACE INTO member VALUES (?, ?, ?, ?, ?, ?, ?)", (*member, name))
        return earlier is not None

    def _find_member(self, path: str) -> _Member | None:
        query = "SELECT path, size, packed, offset, method, crc FROM member WHERE path = ?"
        row = self._members.execute(query, (path,)).fetchone()
        return None if row is None else _Member._make(row)

    def _leave_out(self, path: str, *, reason: str, detail: str) -> None:
        self._members.execute("INSERT INTO left_out VALUES (?, ?, ?)", (path, reason, detail))

    def _require_members(self) -> None:
        has_members = self._members.execute("SELECT EXISTS (SELECT 1 FROM member)").fetchone()[0]
        first = self._members.execute("SELECT detail FROM left_out LIMIT 1").fetchone()
        if not has_members and first is not None:
            raise _UnsafeArchive(first[0])

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


class _UnusableMember(Exception):
    """One member cannot be used, under this path and for this reason; the text is a sentence."""

    def __init__(self, path: str, sentence: str, *, reason: str) -> None:
        super().__init__(sentence)
        self.path = path
        self.reason = reason


class _UndeclaredNames:
    """The names in the table of entries that declare no encoding; they can be read several times."""

    def __init__(self, members: sqlite3.Connection) -> None:
        self._members = members

    def __iter__(self) -> Iterator[RawName]:
        query = "SELECT name, is_utf8, is_unix FROM entry WHERE NOT is_utf8 ORDER BY rowid"
        return map(RawName._make, self._members.execute(query))


def _duplicate_warnings(uri: str, paths: Sequence[str]) -> list[str]:
    if not paths:
        return []
    named = ", ".join(map(repr, paths[:_NAMED_DUPLICATES]))
    more = f" and {len(paths) - _NAMED_DUPLICATES} more" if len(paths) > _NAMED_DUPLICATES else ""
    return [f"{uri} holds several files named {named}{more}: the last of each is used"]


def _read_zip_entries(path: Path, *, max_unpacked_bytes: int) -> Iterator[_Entry]:
    archive_bytes, packed, size = path.stat().st_size, 0, 0
    for entry in zip_reader.read_entries(path):
        packed, size = packed + entry.packed, size + entry.size
        if entry.problem is None and packed > archive_bytes:
            raise _UnsafeArchive("its files overlap")
        _refuse_bomb(size, archive_bytes=archive_bytes, max_unpacked_bytes=max_unpacked_bytes)
        yield _Entry(
            entry.name, entry.is_utf8, entry.is_unix, entry.size, entry.packed, entry.offset, entry.method, entry.crc,
            entry.problem,
        )  # fmt: skip


def _read_tar_entries(path: Path) -> Iterator[_Entry]:
    with (
        path.open("rb") as file,
        tarfile.open(
            mode="r:", fileobj=cast(IO[bytes], _TarHeaders(file)), encoding="utf-8", errors="surrogateescape"
        ) as tar,
    ):
        while (member := tar.next()) is not None:
            # The list that tarfile keeps would grow with the archive.
            tar.members.clear()  # type: ignore[attr-defined]
            if member.size < 0:
                raise tarfile.ReadError(f"'{to_printable(member.name)}' has a negative size")
            if not member.isdir():
                yield _tar_entry(member)
        _require_end(file, tar.offset)


def _tar_entry(member: tarfile.TarInfo) -> _Entry:
    # What is not UTF-8, tarfile keeps as surrogates; only the extended header declares UTF-8.
    name = member.name.encode("utf-8", "surrogateescape")
    declared = "path" in member.pax_headers and is_utf8(name)
    problem = None if member.isreg() and member.sparse is None else "is a link or a device, not a file"
    link = member.linkname.encode("utf-8", "surrogateescape") if member.islnk() else None
    if link is not None:
        problem = f"is a link to '{to_printable(link)}', which the archive does not hold before it"
    return _Entry(name, declared, True, member.size, member.size, member.offset_data, _TAR_METHOD, 0, problem, link)


def _require_end(file: IO[bytes], offset: int) -> None:
    """Raise unless a tar ends at an offset; tarfile takes any damaged header for the end.

    Raises:
        tarfile.ReadError: a block there is not empty.
    """
    file.seek(offset)
    if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError(f"the header at byte {offset} is damaged")


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
