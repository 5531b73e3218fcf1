"""Reads a ``.zip`` from disk: its directory entry by entry, and single members from many threads at once.

The standard library's ``zipfile`` holds the whole directory in memory and reads one member at a time; a million images
need neither. All input is hostile: no number in the file is used before it is checked.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from bloomery_model.sources.encodings import is_utf8

_END_RECORD = struct.Struct("<4s4H2LH")
_ZIP64_LOCATOR = struct.Struct("<4sLQL")
_ZIP64_END_RECORD = struct.Struct("<4sQ2H2L4Q")
_DIRECTORY_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")
_SIGNATURE = b"PK\x05\x05"
_MAX_COMMENT_BYTES = 65535
_MAX_OVERHEAD_BYTES = 64 * 1024
_UTF8_FLAG, _ENCRYPTED_FLAG = 0x800, 0x1
_STORED, _DEFLATED, _AES = 0, 8, 99
_UNICODE_PATH_FIELD, _ZIP64_FIELD = 0x7075, 0x0001
_UNIX_HOSTS = frozenset({3, 19})
"""Unix and macOS, of the systems that an entry may name."""
_WRAP = 2**32
_COUNT_WRAP = 2**16


class DamagedZip(Exception):
    """The file is damaged or inconsistent; the text says in which way."""


class ZipEntry(NamedTuple):
    """One file in a ``.zip``, as its directory describes it.

    Attributes:
        name: as in the archive, with ``/`` between folders.
        is_utf8: whether the name is declared to be UTF-8, and is.
        is_unix: whether a program on Unix or macOS wrote the entry.
        problem: why it cannot be used.
    """

    name: bytes
    is_utf8: bool
    is_unix: bool
    size: int
    packed: int
    offset: int
    method: int
    crc: int
    problem: str | None


class _Directory(NamedTuple):
    """The directory of a ``.zip``.

    Attributes:
        start: its offset in the file.
        end: the offset of the byte behind it.
        entries: their number.
        counts_all: whether ``entries`` is the number itself, not its lowest 16 bits.
        shift: to add to all offsets, where something precedes the archive in the file.
        wraps: whether the archive is larger than its offsets of 32 bits can say, and has no ZIP64 fields.
    """

    start: int
    end: int
    entries: int
    counts_all: bool
    shift: int
    wraps: bool


def read_entries(path: Path) -> Iterator[ZipEntry]:
    """Yield every file of the archive, without folders.

    Raises:
        DamagedZip: the directory is missing or damaged.
    """
    with path.open("rb") as file:
        directory, entries = _find_directory(file), 0
        file.seek(directory.start)
        while file.tell() < directory.end and (entry := _read_entry(file, directory)) is not None:
            entries += 1
            if not entry.name.endswith(b"/"):
                yield entry
        # Programs such as macOS' write the count without ZIP64 fields, modulo 65,536.
        matches = entries == directory.entries or (
            not directory.counts_all and entries % _COUNT_WRAP == directory.entries
        )
        if file.tell() > directory.end or not matches:
            raise DamagedZip(f"its directory has {entries} entries, and its end says {directory.entries}")


def read_member(descriptor: int, *, size: int, packed: int, offset: int, method: int, crc: int) -> bytes:
    """Return the content of one member.

    Raises:
        DamagedZip: the content is not as the directory describes it; at most ``size`` bytes are unpacked.
    """
    if packed > size + size // 100 + _MAX_OVERHEAD_BYTES:
        raise DamagedZip("it is packed into more than its size")
    header = os.pread(descriptor, _LOCAL_HEADER.size, offset)
    if len(header) != _LOCAL_HEADER.size or header[:4] != b"PK\x03\x04":
        raise DamagedZip("its header is damaged")
    *_, name_size, extra_size = _LOCAL_HEADER.unpack(header)
    data = os.pread(descriptor, packed, offset + _LOCAL_HEADER.size + name_size + extra_size)
    if method == _DEFLATED:
        try:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
        except zlib.error as error:
            raise DamagedZip("it cannot be unpacked") from error
    if len(data) != size or zlib.crc32(data) != crc:
        raise DamagedZip("its content differs from what the archive's directory says")
    return data


def _find_directory(file: IO[bytes]) -> _Directory:
    length = file.seek(0, os.SEEK_END)
    tail_start = max(0, length - _END_RECORD.size - _MAX_COMMENT_BYTES)
    file.seek(tail_start)
    tail = file.read()
    position = tail.rfind(b"PK\x05\x06")
    if position < 0 or len(tail) - position < _END_RECORD.size:
        raise DamagedZip("it is not a zip file, or its end is missing")
    end = tail_start + position
    _, disk, _, _, count, size, start, _ = _END_RECORD.unpack_from(tail, position)
    if disk not in (0, 0xFFFF):
        raise DamagedZip("it is one part of several; pack it as one file")
    counts_all = False
    if count == 0xFFFF or size == 0xFFFFFFFF or start == 0xFFFFFFFF:
        record = _read_zip64_end(file, end)
        if record is not None:
            (end, count, size, start), counts_all = record, True
    shift = end - size - start
    if shift < 0 or end - size < 0:
        raise DamagedZip("its directory is damaged")
    wraps = not counts_all and shift >= _WRAP
    return _Directory(end - size, end, count, counts_all, shift % _WRAP if wraps else shift, wraps)


def _read_zip64_end(file: IO[bytes], end: int) -> tuple[int, int, int, int] | None:
    """Return the directory's end, entries, size and start; None if there is no ZIP64 record."""
    file.seek(max(0, end - _ZIP64_LOCATOR.size))
    locator = file.read(_ZIP64_LOCATOR.size)
    if len(locator) != _ZIP64_LOCATOR.size or locator[:4] != b"PK\x06\x07":
        return None
    # The offset in the locator is wrong where something precedes the archive; the record ends where the locator begins.
    record_start = end - _ZIP64_LOCATOR.size - _ZIP64_END_RECORD.size
    file.seek(max(0, record_start))
    record = file.read(_ZIP64_END_RECORD.size)
    if len(record) != _ZIP64_END_RECORD.size or record[:4] != b"PK\x06\x06":
        raise DamagedZip("its directory is damaged")
    *_, count, size, start = _ZIP64_END_RECORD.unpack(record)
    return record_start, count, size, start


def _read_entry(file: IO[bytes], directory: _Directory) -> ZipEntry | None:
    """Read the next entry; return None at the signature that may follow the last one."""
    fixed = file.read(_DIRECTORY_ENTRY.size)
    if fixed[:4] == _SIGNATURE:
        file.seek(directory.end)
        return None
    if len(fixed) != _DIRECTORY_ENTRY.size or fixed[:4] != b"PK\x01\x02":
        raise DamagedZip("its directory is damaged")
    (_, made_by, _, flags, method, _, _, crc, packed, size, name_size, extra_size, comment_size, _, _, mode, offset) = (
        _DIRECTORY_ENTRY.unpack(fixed)
    )
    raw_name, extra = file.read(name_size), dict(_split_extra_fields(file.read(extra_size)))
    file.seek(comment_size, os.SEEK_CUR)
    size, packed, offset = _apply_zip64_field(extra.get(_ZIP64_FIELD, b""), size, packed, offset)
    offset += directory.shift
    problem = _entry_problem(flags, method, size, packed, file_type=stat.S_IFMT(mode >> 16))
    if directory.wraps:
        offset = _find_wrapped_header(file, offset, raw_name, directory.start)
    name, is_utf8 = _declared_name(raw_name, flags, extra)
    return ZipEntry(name, is_utf8, made_by >> 8 in _UNIX_HOSTS, size, packed, offset, method, crc, problem)


def _find_wrapped_header(file: IO[bytes], offset: int, raw_name: bytes, end: int) -> int:
    """Return the offset of the local header with this name; the directory has only the lowest 32 bits of it."""
    for candidate in range(offset, end, _WRAP):
        header = os.pread(file.fileno(), _LOCAL_HEADER.size + len(raw_name), candidate)
        if header[:4] == b"PK\x03\x04" and header[_LOCAL_HEADER.size :] == raw_name:
            return candidate
    # Reading it fails, and leaves out this file alone.
    return offset


def _split_extra_fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= 4:
        kind, size = struct.unpack_from("<2H", data)
        yield kind, data[4 : 4 + size]
        data = data[4 + size :]


def _apply_zip64_field(field: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    """Replace the values that do not fit 32 bits; the ZIP64 field holds them in this order."""
    values = []
    for value in (size, packed, offset):
        if value == 0xFFFFFFFF:
            if len(field) < 8:
                raise DamagedZip("its directory is damaged")
            value, field = int.from_bytes(field[:8], "little"), field[8:]
        values.append(value)
    return values[0], values[1], values[2]


def _declared_name(raw_name: bytes, flags: int, extra: dict[int, bytes]) -> tuple[bytes, bool]:
    """Return the name, and whether it is UTF-8 as the entry declares."""
    field = extra.get(_UNICODE_PATH_FIELD, b"")
    is_of_name = len(field) > 5 and int.from_bytes(field[1:5], "little") == zlib.crc32(raw_name)
    if is_of_name and is_utf8(field[5:]):
        return field[5:], True
    return raw_name, bool(flags & _UTF8_FLAG) and is_utf8(raw_name)


def _entry_problem(flags: int, method: int, size: int, packed: int, *, file_type: int) -> str | None:
    if flags & _ENCRYPTED_FLAG or method == _AES:
        return "is encrypted; pack it without a password"
    if file_type not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device, not a file"
    if method not in (_STORED, _DEFLATED):
        return f"is packed by method {method}; pack it with 'deflate', the default of zip programs"
    if method == _STORED and packed != size:
        return f"is damaged: it has {packed} bytes, and the archive's directory says {size}"
    return None
