"""Random archives: names in several encodings, links, odd sizes and methods, archives in archives, damaged bytes."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass

from tests.fuzz.images import hurt

COMPRESSIONS = (*(zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) * 4, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
TAR_FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
TAR_KINDS = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE, b"Z")
MANY = 1500


@dataclass(frozen=True)
class Archive:
    """An archive's bytes, and the paths of its files; None if the whole is damaged."""

    suffix: str
    data: bytes
    members: list[str] | None


def any_archive(chance: random.Random, files: Mapping[str, bytes]) -> Archive:
    """Pack files, with some oddity as often as not."""
    files = dict(files)
    if chance.random() < 0.1:
        files |= {f"many/{number}.png": b"" for number in range(MANY)}
    if chance.random() < 0.2:
        files[f"rose/inner{chance.choice(('.zip', '.png'))}"] = _zip(chance, {"rose/1.png": b"x"}).data
    archive = _zip(chance, files) if chance.random() < 0.5 else _tar(chance, files)
    if chance.random() < 0.2:
        return Archive(archive.suffix, hurt(archive.data, chance), None)
    return archive


def _zip(chance: random.Random, files: Mapping[str, bytes]) -> Archive:
    buffer, compression = io.BytesIO(), chance.choice(COMPRESSIONS)
    buffer.write(chance.choice((b"", b"", b"#!/bin/sh\n" * 100)))
    members: list[str] | None = list(files)
    with zipfile.ZipFile(buffer, "a", compression, strict_timestamps=False) as archive:
        for path, data in files.items():
            info = zipfile.ZipInfo(path)
            # A slash at the end makes a folder of it.
            info.filename = path or "empty"
            info.compress_type = compression
            archive.writestr(info, data)
        archive.comment = chance.choice((b"", b"PK\x05\x06" * 9, b"words"))
        if chance.random() < 0.2:
            members = None
            _falsify(chance.choice(archive.infolist()), chance)
    return Archive(".zip", buffer.getvalue(), members)


def _falsify(info: zipfile.ZipInfo, chance: random.Random) -> None:
    """Let the directory lie about a member."""
    field = chance.choice(("CRC", "compress_size", "file_size", "header_offset", "flag_bits", "external_attr", "extra"))
    if field == "extra":
        info.extra = chance.choice((b"\x01\0\x04\0abcd", b"\x75\x70\xff\xff", b"\1", bytes(64)))
    elif field == "flag_bits":
        info.flag_bits |= chance.choice((0x1, 0x8, 0x40, 0x2000))
    else:
        setattr(info, field, chance.choice((0, 1, 2**16, 2**31, 2**32 - 1, getattr(info, field) + 1)))


def _tar(chance: random.Random, files: Mapping[str, bytes]) -> Archive:
    buffer, kind = io.BytesIO(), chance.choice(TAR_FORMATS)
    members: list[str] | None = []
    encoding = chance.choice(("utf-8", "utf-8", "utf-8", "gb18030"))
    with tarfile.open(fileobj=buffer, mode="w", format=kind, encoding=encoding, errors="replace") as archive:
        for path, data in files.items():
            try:
                archive.addfile(_entry(path, len(data)), io.BytesIO(data))
            except ValueError:  # the format has no room for the name
                continue
            # A name that another encoding cannot hold is another name.
            members.append(path)
        if chance.random() < 0.2:
            archive.addfile(_odd_entry(chance))
            members = None
    data = gzip.compress(buffer.getvalue(), chance.choice((0, 1, 9)), mtime=0)
    if chance.random() < 0.1:
        data += chance.choice((gzip.compress(b"", mtime=0), b"\0" * 1000, b"tail"))
    return Archive(chance.choice((".tar.gz", ".tgz")), data, members if encoding == "utf-8" else None)


def _entry(path: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(path)
    entry.size = size
    return entry


def _odd_entry(chance: random.Random) -> tarfile.TarInfo:
    """Return an entry that is no plain file, or whose headers are out of proportion."""
    entry = tarfile.TarInfo("rose/odd.png")
    entry.linkname = chance.choice(("../../etc/passwd", "rose/good-0.png", ""))
    entry.type = chance.choice(TAR_KINDS)
    if chance.random() < 0.3:
        entry.type, entry.size = tarfile.REGTYPE, 0
        entry.pax_headers = {
            chance.choice(("comment", "path", "GNU.sparse.map")): "x" * chance.choice((1, 10**5, 2 * 10**6))
        }
    return entry
