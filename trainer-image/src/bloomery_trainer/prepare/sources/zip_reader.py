"""Reading a .zip from disk: its directory entry by entry, and single members from many threads at once.

The standard library's zipfile holds all of a directory in memory and reads members one at a time; a million
images need neither. Everything here is hostile input: no number in the file is believed before it is checked.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

_END = struct.Struct("<4s4H2LH")
_END64_PLACE = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_LONGEST_COMMENT = 65535
_OVERHEAD = 64 * 1024
_UTF8, _ENCRYPTED = 0x800, 0x1
_STORED, _DEFLATED = 0, 8
_UNICODE_PATH, _ZIP64 = 0x7075, 0x0001


class Damaged(Exception):
    """The file is not what it says; the text says in which way."""


class ZipEntry(NamedTuple):
    """One file in a .zip, as its directory describes it; `problem` says why it is of no use."""

    name: str
    size: int
    packed: int
    offset: int
    method: int
    crc: int
    problem: str | None


def entries(path: Path) -> Iterator[ZipEntry]:
    """Yields every file of the archive, folders left out; raises Damaged where there is no sound directory."""
    with path.open("rb") as file:
        start, count, shift = _directory(file)
        file.seek(start)
        for _ in range(count):
            entry = _entry(file, shift)
            if not entry.name.endswith("/"):
                yield entry


def read_member(descriptor: int, *, size: int, packed: int, offset: int, method: int, crc: int) -> bytes:
    """The content of one member, at most `size` bytes of it; raises Damaged where it is not as announced."""
    if packed > size + size // 100 + _OVERHEAD:
        raise Damaged("it is packed into more than its size")
    header = os.pread(descriptor, _LOCAL.size, offset)
    if len(header) != _LOCAL.size or header[:4] != b"PK\x03\x04":
        raise Damaged("its header is damaged")
    *_, name, extra = _LOCAL.unpack(header)
    data = os.pread(descriptor, packed, offset + _LOCAL.size + name + extra)
    if method == _DEFLATED:
        try:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
        except zlib.error as error:
            raise Damaged("it cannot be unpacked") from error
    if len(data) != size or zlib.crc32(data) != crc:
        raise Damaged("its content is not what the archive's directory says")
    return data


def _directory(file: IO[bytes]) -> tuple[int, int, int]:
    """Where the directory starts, its number of entries, and by how much all offsets are off."""
    length = file.seek(0, os.SEEK_END)
    tail_start = max(0, length - _END.size - _LONGEST_COMMENT)
    file.seek(tail_start)
    tail = file.read()
    found = tail.rfind(b"PK\x05\x06")
    if found < 0 or len(tail) - found < _END.size:
        raise Damaged("it is not a zip file, or its end is missing")
    end = tail_start + found
    _, disk, _, _, count, size, start, _ = _END.unpack_from(tail, found)
    if disk not in (0, 0xFFFF):
        raise Damaged("it is one part of several; pack it as one file")
    if count == 0xFFFF or size == 0xFFFFFFFF or start == 0xFFFFFFFF:
        end, count, size, start = _directory64(file, end, (count, size, start))
    shift = end - size - start
    if shift < 0 or start + shift < 0:
        raise Damaged("its directory is damaged")
    return start + shift, count, shift


def _directory64(file: IO[bytes], end: int, small: tuple[int, int, int]) -> tuple[int, int, int, int]:
    file.seek(max(0, end - _END64_PLACE.size))
    place = file.read(_END64_PLACE.size)
    if len(place) != _END64_PLACE.size or place[:4] != b"PK\x06\x07":
        return end, *small
    # The record has no fixed place where something was put before the archive; it ends where its locator begins.
    at = end - _END64_PLACE.size - _END64.size
    file.seek(max(0, at))
    record = file.read(_END64.size)
    if len(record) != _END64.size or record[:4] != b"PK\x06\x06":
        raise Damaged("its directory is damaged")
    *_, count, size, start = _END64.unpack(record)
    return at, count, size, start


def _entry(file: IO[bytes], shift: int) -> ZipEntry:
    fixed = file.read(_ENTRY.size)
    if len(fixed) != _ENTRY.size or fixed[:4] != b"PK\x01\x02":
        raise Damaged("its directory is damaged")
    (_, _, _, flags, method, _, _, crc, packed, size, name_size, extra_size, comment_size, _, _, mode, offset) = (
        _ENTRY.unpack(fixed)
    )
    raw, extra = file.read(name_size), dict(_extras(file.read(extra_size)))
    file.seek(comment_size, os.SEEK_CUR)
    size, packed, offset = _large(extra.get(_ZIP64, b""), size, packed, offset)
    name = _name(raw, flags, extra)
    problem = _problem(flags, method, kind=stat.S_IFMT(mode >> 16))
    if method == _STORED and packed != size:
        raise Damaged("its directory is damaged")
    return ZipEntry(name, size, packed, offset + shift, method, crc, problem)


def _extras(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= 4:
        kind, size = struct.unpack_from("<2H", data)
        yield kind, data[4 : 4 + size]
        data = data[4 + size :]


def _large(field: bytes, *values: int) -> tuple[int, int, int]:
    """Values that did not fit 32 bits stand in the ZIP64 field, in this order."""
    found = []
    for value in values:
        if value == 0xFFFFFFFF:
            if len(field) < 8:
                raise Damaged("its directory is damaged")
            value, field = int.from_bytes(field[:8], "little"), field[8:]
        found.append(value)
    size, packed, offset = found
    return size, packed, offset


def _name(raw: bytes, flags: int, extra: dict[int, bytes]) -> str:
    """The name in the encoding that fits: most packers on Chinese Windows write GBK and do not say so."""
    unicode_path = extra.get(_UNICODE_PATH, b"")
    if len(unicode_path) > 5 and int.from_bytes(unicode_path[1:5], "little") == zlib.crc32(raw):
        raw, flags = unicode_path[5:], flags | _UTF8
    for encoding in ("utf-8",) if flags & _UTF8 else ("utf-8", "gb18030", "cp437"):
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise Damaged(f"the name {raw[:100]!r} is not UTF-8")


def _problem(flags: int, method: int, *, kind: int) -> str | None:
    if flags & _ENCRYPTED:
        return "is encrypted; pack it without a password"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device, not a file"
    if method not in (_STORED, _DEFLATED):
        return f"is packed by method {method}; pack it with 'deflate', as zip programs do by default"
    return None
