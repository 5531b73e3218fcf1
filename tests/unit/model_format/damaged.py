"""Image files with damaged metadata: the pixels are whole, an EXIF, ICC or text chunk is not.

The containers are assembled here, with correct lengths and checksums, as an encoder would refuse such chunks.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image, ImageCms

from tests.unit.model_format.pictures import PICTURE, encoded

IMAGE = PICTURE.resize((52, 36))
BODIES = {
    "jpg": encoded(IMAGE, "JPEG", dpi=(72, 72)),
    "png": encoded(IMAGE, "PNG"),
    "webp": encoded(IMAGE, "WEBP"),
    "tif": encoded(IMAGE, "TIFF"),
    "gif": encoded(IMAGE.quantize(32), "GIF"),
}
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6" xmp:Rating="3"/></x:xmpmeta>'
KINDS = ("exif", "icc", "text")
_TIFF_TYPES = (*range(1, 14), 16, 17, 18, 0, 99, 65535)
_TAGS = (0x010E, 0x010F, 0x0112, 0x011A, 0x0128, 0x0132, 0x8769, 0x8825, 0xA005, 0x9286, 0x927C, 0x0201, 0xC4A5)


@dataclass(frozen=True)
class Damaged:
    """One file, and its name: format, kind of chunk and seed."""

    name: str
    data: bytes


def damaged_files(count: int, *, seed: int) -> Iterator[Damaged]:
    """Yield files over all formats and kinds of chunks in turn; the same for the same seed."""
    for number in range(count):
        extension = list(BODIES)[number % len(BODIES)]
        kind = KINDS[number // len(BODIES) % len(KINDS)]
        chance = random.Random(f"{seed}/{number}")
        yield Damaged(f"{kind}-{seed}-{number}.{extension}", _write(extension, kind, chance))


def _write(extension: str, kind: str, chance: random.Random) -> bytes:
    if extension == "tif":
        return _tiff(kind, chance)
    payload = {"exif": exif_block, "icc": _icc, "text": _text}[kind](chance)
    return {"jpg": _jpeg, "png": _png, "webp": _webp, "gif": _gif}[extension](kind, payload, chance)


def exif_block(chance: random.Random) -> bytes:
    """Return a TIFF structure (EXIF 3.0, section 4.5.2) with odd entries, sometimes with odd bytes on top."""
    order = chance.choice("<>")
    entries, tail = [], b""
    tags = [0x0112, *chance.choices(_TAGS, k=chance.randint(0, 5))]
    start = 8 + 2 + 12 * len(tags) + 4
    for tag in tags:
        kind, count = chance.choice(_TIFF_TYPES), chance.choice((1, 1, 1, 2, 3, 8, 40, 0, 2**31))
        value = struct.pack(order + "HH", chance.randint(0, 9), chance.choice((0, 0, 65535)))
        if tag == 0x0112 and chance.random() < 0.7:
            kind, count = 3, 1
        elif chance.random() < 0.4:
            value = struct.pack(order + "I", start + len(tail))
            tail += chance.randbytes(chance.randint(0, 24))
        entries.append(struct.pack(order + "HHI", tag, kind, count) + value)
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, 8, len(tags))
    block = head + b"".join(entries) + struct.pack(order + "I", chance.choice((0, 0, 8, start, 2**31))) + tail
    return _hurt(block, chance) if chance.random() < 0.3 else block


def _icc(chance: random.Random) -> bytes:
    return _hurt(ICC, chance)


def _text(chance: random.Random) -> bytes:
    return _hurt(chance.choice((XMP, b"Comment\0words", b"Title\0\0\0en\0Titel\0words", b"\xff" * 300)), chance)


def _hurt(block: bytes, chance: random.Random) -> bytes:
    """Return the bytes cut, overwritten, repeated or replaced."""
    way = chance.randrange(5)
    if way == 0:
        return block[: chance.randint(0, len(block))]
    if way == 1:
        return chance.randbytes(chance.randint(0, 200))
    if way == 2:
        return block * chance.randint(2, 4)
    changed = bytearray(block)
    for _ in range(chance.randint(1, 12)):
        changed[chance.randrange(len(changed))] = chance.choice((0, 1, 127, 255, chance.randrange(256)))
    return bytes(changed)


def _jpeg(kind: str, payload: bytes, chance: random.Random) -> bytes:
    """Insert a segment before or behind JFIF's, or instead of it: Pillow then looks for a resolution in EXIF."""
    marker, head = {
        "exif": (0xE1, b"Exif\0\0"),
        "icc": (0xE2, b"ICC_PROFILE\0" + bytes((chance.choice((1, 1, 0, 2)), chance.choice((1, 1, 0, 3))))),
        "text": chance.choice(((0xFE, b""), (0xE1, b"http://ns.adobe.com/xap/1.0/\0"), (0xED, b"Photoshop 3.0\0"))),
    }[kind]
    content = (head + payload)[:65533]
    segment = struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content
    body = BODIES["jpg"]
    jfif = 4 + int.from_bytes(body[4:6], "big")
    start, end = chance.choice(((2, 2), (jfif, jfif), (2, jfif)))
    return body[:start] + segment + body[end:]


def png_chunk(name: bytes, content: bytes) -> bytes:
    """Return a chunk with its length and checksum."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _png(kind: str, payload: bytes, chance: random.Random) -> bytes:
    """Insert a chunk behind the header, or behind the pixels."""
    packed = zlib.compress(payload)
    if chance.random() < 0.3:
        packed = _hurt(packed, chance)
    name, content = {
        "exif": chance.choice(((b"eXIf", payload), (b"zTXt", b"Raw profile type exif\0\0" + packed))),
        "icc": (b"iCCP", chance.choice((b"sRGB\0\0",) * 5 + (b"\0", b"sRGB\0\7", b"")) + packed),
        "text": chance.choice(
            (
                (b"tEXt", payload),
                (b"zTXt", chance.choice((b"Comment\0\0", b"Comment\0\1", b"Comment", b"")) + packed),
                (
                    b"iTXt",
                    chance.choice((b"XML:com.adobe.xmp\0\0\0\0\0", b"Title\0\1\0\0\0", b"Title\0\1\1")) + payload,
                ),
                (b"iTXt", b"Title\0\1\0en\0\0" + packed),
                (b"tIME", payload),
                (b"pHYs", payload[:9]),
                (b"gAMA", payload[:4]),
                (b"cHRM", payload[:32]),
            )
        ),
    }[kind]
    body = BODIES["png"]
    at = 33 if chance.random() < 0.5 else len(body) - 12
    return body[:at] + png_chunk(name, content) + body[at:]


def _webp(kind: str, payload: bytes, chance: random.Random) -> bytes:
    """Make an extended WebP: VP8X, the metadata, and the pixels."""
    name, flag = {"exif": (b"EXIF", 8), "icc": (b"ICCP", 32), "text": (b"XMP ", 4)}[kind]
    if chance.random() < 0.3:
        payload = b"Exif\0\0" + payload
    sides = [struct.pack("<I", side - 1)[:3] for side in IMAGE.size]
    parts = [_riff(b"VP8X", bytes((flag, 0, 0, 0)) + b"".join(sides)), BODIES["webp"][12:], _riff(name, payload)]
    if kind == "icc":
        parts[1:] = reversed(parts[1:])
    body = b"WEBP" + b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _riff(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def _gif(kind: str, payload: bytes, chance: random.Random) -> bytes:
    """Insert an extension behind the palette."""
    label, head = {
        "exif": (0xFF, b"\x0bXMP DataXMP"),
        "icc": (0xFF, b"\x0bICCRGBG1012"),
        "text": (0xFE, b""),
    }[kind]
    blocks = b"".join(bytes((len(part),)) + part for part in _parts(payload))
    end = b"" if chance.random() < 0.05 else b"\0"
    body = BODIES["gif"]
    at = 13 + 3 * 2 ** ((body[10] & 7) + 1)
    return body[:at] + bytes((0x21, label)) + head + blocks + end + body[at:]


def _parts(payload: bytes) -> Iterator[bytes]:
    for start in range(0, len(payload), 255):
        yield payload[start : start + 255]


def _tiff(kind: str, chance: random.Random) -> bytes:
    """Put odd entries among those that describe the pixels (TIFF 6.0, section 2), which stay as they are."""
    body = BODIES["tif"]
    at = int.from_bytes(body[4:8], "little")
    number = int.from_bytes(body[at : at + 2], "little")
    entries = [body[at + 2 + 12 * i : at + 14 + 12 * i] for i in range(number)]
    tags = {"exif": (0x0112, 0x8769, 0x8825, 0xA005), "icc": (0x8773,), "text": (0x010E, 0x02BC, 0x0131, 0x83BB)}[kind]
    tail = b""
    start = len(body) + 2 + 12 * (number + len(tags)) + 4
    for tag in tags:
        content = {"exif": exif_block, "icc": _icc, "text": _text}[kind](chance)
        kind_of = 3 if tag == 0x0112 and chance.random() < 0.5 else chance.choice(_TIFF_TYPES)
        value = chance.randint(0, 9) if chance.random() < 0.4 else start + len(tail)
        entries.append(struct.pack("<HHII", tag, kind_of, chance.choice((1, 1, 4, len(content))), value))
        tail += content
    entries.sort(key=lambda entry: entry[:2][::-1])
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return body[:4] + struct.pack("<I", len(body)) + body[8:] + directory + tail


def exif_like(*entries: tuple[int, int, int, bytes]) -> bytes:
    """Return an EXIF block, big-endian, of entries (tag, type, count, four bytes of value) in order of their tags."""
    directory = b"".join(struct.pack(">HHI", tag, kind, count) + value for tag, kind, count, value in entries)
    return b"MM\0\x2a" + struct.pack(">IH", 8, len(entries)) + directory + bytes(4)


def png_with(name: bytes, content: bytes, *, image: Image.Image = IMAGE) -> bytes:
    """Return a PNG file with one chunk more, before the pixels."""
    body = encoded(image, "PNG")
    return body[:33] + png_chunk(name, content) + body[33:]


TURNED = (0x0112, 3, 1, b"\0\6\0\0")
"""The entry of a picture that lies on its side."""


def upright_files(image: Image.Image) -> dict[str, bytes]:
    """Return files by name whose orientation cannot be read: the picture is upright and whole."""
    return {
        "no-tiff.png": png_with(b"eXIf", bytes.fromhex("0008000201120003"), image=image),
        "no-tiff.jpg": encoded(image, "JPEG", dpi=(72, 72), exif=b"Exif\0\0not tiff at all"),
        "empty-exif.png": png_with(b"eXIf", b"", image=image),
        "orientation-is-text.png": png_with(b"eXIf", exif_like((0x0112, 2, 4, b"six\0")), image=image),
        "orientation-is-9.png": png_with(b"eXIf", exif_like((0x0112, 3, 1, b"\0\x09\0\0")), image=image),
        "not-hexadecimal.png": png_with(
            b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\n" * 3 + b"xyz"), image=image
        ),
    }


def turned_files(image: Image.Image) -> dict[str, bytes]:
    """Return files by name that say they lie on their side, beside entries of the wrong type."""
    strange = {
        "maker-is-float": ((0x010F, 11, 1, bytes(4)), TURNED),
        "model-is-a-fraction": ((0x0110, 5, 1, bytes(4)), TURNED),
        "resolution-is-bytes": (TURNED, (0x011A, 1, 2, b"ab\0\0")),
        "date-is-a-fraction": (TURNED, (0x0132, 10, 1, bytes(4))),
    }
    blocks = {name: exif_like(*entries) for name, entries in strange.items()}
    pngs = {f"{name}.png": png_with(b"eXIf", block, image=image) for name, block in blocks.items()}
    jpegs = {
        f"{name}.jpg": encoded(image, "JPEG", dpi=(72, 72), quality=95, exif=b"Exif\0\0" + block)
        for name, block in blocks.items()
    }
    return pngs | jpegs


def refused_files(image: Image.Image) -> dict[str, bytes]:
    """Return files by name whose chunks Pillow refuses to read."""
    bomb = zlib.compress(bytes(2_000_000))
    return {
        "text-bomb.png": png_with(b"zTXt", b"Comment\0\0" + bomb, image=image),
        "itext-bomb.png": png_with(b"iTXt", b"Comment\0\1\0\0\0" + bomb, image=image),
        "profile-bomb.png": png_with(b"iCCP", b"sRGB\0\0" + bomb, image=image),
        "unknown-compression.png": png_with(b"iCCP", b"sRGB\0\7" + bomb, image=image),
    }
