"""Archives byte by byte, as programs write them that Python's own modules do not imitate: names in any encoding."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

DOS, UNIX, NTFS = 0, 3, 11
"""Systems that an entry of a .zip may name."""

UTF8_FLAG, ENCRYPTED_FLAG = 0x800, 0x1

_WRAP, _COUNT_WRAP = 2**32, 2**16


@dataclass(frozen=True, kw_only=True)
class ZipFile:
    """One file of a .zip.

    Attributes:
        name: its bytes.
        data: its content, stored as it is.
        flags: general purpose flags.
        host: the system that wrote it.
        method: its compression; the content is not compressed whatever it says.
        mode: Unix mode with the file type; 0 says nothing.
        extra: extra fields of the directory.
        hole: zero bytes behind the content, for a large archive that needs no disk.
    """

    name: bytes
    data: bytes = b""
    flags: int = 0
    host: int = DOS
    method: int = 0
    mode: int = 0
    extra: bytes = b""
    hole: int = 0


def write_zip(path: Path, files: Iterable[ZipFile], *, count: int | None = None) -> Path:
    """Write a .zip without ZIP64 fields: numbers are cut to their lowest bits, as Archive Utility of macOS does.

    Args:
        path: the file.
        files: its files.
        count: number of files that the end of the directory says; None: the true one.
    """
    directory: list[bytes] = []
    with path.open("wb") as archive:
        for file in files:
            offset, size, crc = archive.tell(), len(file.data) + file.hole, zlib.crc32(file.data)
            # An encrypted file begins with 12 bytes of its own.
            packed = size + (12 if file.flags & ENCRYPTED_FLAG else 0)
            common = struct.pack("<4H3L", file.flags, file.method, 0, 33, crc, packed, size)
            archive.write(b"PK\x03\x04" + struct.pack("<H", 20) + common + struct.pack("<2H", len(file.name), 0))
            archive.write(file.name + bytes(packed - size) + file.data)
            archive.seek(file.hole, 1)
            directory.append(
                b"PK\x01\x02" + struct.pack("<2H", file.host << 8 | 20, 20) + common
                + struct.pack("<5H2L", len(file.name), len(file.extra), 0, 0, 0, file.mode << 16, offset % _WRAP)
                + file.name + file.extra
            )  # fmt: skip
        start, content = archive.tell(), b"".join(directory)
        number = (len(directory) if count is None else count) % _COUNT_WRAP
        end = struct.pack("<4H2LH", 0, 0, number, number, len(content), start % _WRAP, 0)
        archive.write(content + b"PK\x05\x06" + end)
    return path


def unicode_path_field(raw_name: bytes, name: str) -> bytes:
    """Return Info-ZIP's extra field with a name in UTF-8, beside one in another encoding."""
    content = struct.pack("<BL", 1, zlib.crc32(raw_name)) + name.encode()
    return struct.pack("<2H", 0x7075, len(content)) + content


def write_tar_gz(path: Path, files: Sequence[tuple[bytes, bytes]]) -> Path:
    """Write a .tar.gz with GNU headers, which hold the bytes of each name as they are."""
    with gzip.open(path, "wb") as packed, tarfile.open(
        fileobj=packed, mode="w", format=tarfile.GNU_FORMAT, encoding="utf-8", errors="surrogateescape"
    ) as archive:  # fmt: skip
        for name, data in files:
            member = tarfile.TarInfo(name.decode("utf-8", "surrogateescape"))
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path
