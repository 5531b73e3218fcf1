"""Removal of metadata from image files: places, cameras, comments, thumbnails. The pixels and their colours stay.

The file's own structure is cut, and nothing is encoded again, so that training sees what was served. Only parts that
are known to hold no metadata are kept. The orientation, which changes the picture, is written again alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from io import BytesIO

from PIL import Image

from bloomery_model import ImageError, open_image, read_orientation

_EXIF_HEADER = b"Exif\0\0"
_ICC_HEADER = b"ICC_PROFILE\0"
_JFIF_HEADER = b"JFIF\0"
_ORIENTATION = 0x0112
_PNG_SIGNATURE_BYTES = 8
_PNG_KEPT = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"sBIT", b"cICP")
_PNG_METADATA = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")
"""Chunks that an orientation may be in: ImageMagick writes EXIF as a text."""
_WEBP_KEPT = (b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"ICCP")
_WEBP_EXIF, _WEBP_XMP = 0x08, 0x04

_WITHOUT_CONTENT = (0x00, 0x01, *range(0xD0, 0xD9))
"""Markers that belong into a scan, or nowhere."""
_SOS, _EOI, _APP0, _APP2, _APP14, _APP15, _COMMENT = 0xDA, 0xD9, 0xE0, 0xE2, 0xEE, 0xEF, 0xFE


def strip_metadata(data: bytes, *, kind: str) -> bytes:
    """Return an image file without its metadata.

    Args:
        data: the file.
        kind: Pillow's name of its format: JPEG, MPO, PNG, WEBP or BMP.

    Raises:
        ImageError: its structure is damaged.
    """
    try:
        exif = _orientation_exif(data)
        match kind:
            case "JPEG" | "MPO":
                return b"".join(_strip_jpeg(data, exif))
            case "PNG":
                return data[:_PNG_SIGNATURE_BYTES] + b"".join(_strip_png(data, exif))
            case "WEBP":
                return _strip_webp(data, exif)
            case _:
                # BMP has no metadata, and says how long it is.
                return data[: int.from_bytes(data[2:6], "little") or len(data)]
    except (IndexError, ValueError) as error:
        raise ImageError("DamagedImage", "its metadata cannot be removed") from error


def _orientation_exif(data: bytes) -> bytes | None:
    """Return an EXIF block that holds the orientation alone; None for an upright image."""
    image = open_image(data)
    # A PNG may have the block after its pixels, which need not be decoded for it.
    orientation = _png_orientation(data) if image.format == "PNG" else read_orientation(image)
    if orientation == 1:
        return None
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    return exif.tobytes()


def _strip_jpeg(data: bytes, exif: bytes | None) -> Iterator[bytes]:
    yield data[:2]
    if exif is not None:
        yield b"\xff\xe1" + (len(exif) + 2).to_bytes(2) + exif
    position = 2
    while position < len(data):
        marker = data[position + 1]
        if data[position] != 0xFF or marker in _WITHOUT_CONTENT:
            raise ValueError("no segment")
        if marker == 0xFF:  # a byte that fills
            position += 1
        elif marker == _EOI:
            yield data[position : position + 2]
            return
        else:
            end = position + 2 + int.from_bytes(data[position + 2 : position + 4])
            if marker == _SOS:
                end = _end_of_scan(data, end)
            yield _keep_segment(marker, data[position:end])
            position = end


def _end_of_scan(data: bytes, position: int) -> int:
    """Return the place of the next marker that is neither a restart nor a part of the pixels."""
    while (position := data.find(b"\xff", position)) >= 0 and position + 1 < len(data):
        following = data[position + 1]
        if following and not 0xD0 <= following <= 0xD7 and following != 0xFF:
            return position
        position += 1 if following == 0xFF else 2
    return len(data)


def _keep_segment(marker: int, segment: bytes) -> bytes:
    """Return what is kept of a segment: all of it, or nothing; of JFIF's, all but its thumbnail."""
    content = segment[4:]
    if marker == _APP0 and content.startswith(_JFIF_HEADER):
        return b"\xff\xe0\x00\x10" + content[:12] + b"\0\0"
    is_kept = not (_APP0 <= marker <= _APP15 or marker == _COMMENT)
    is_colour = marker == _APP14 or (marker == _APP2 and content.startswith(_ICC_HEADER))
    return segment if is_kept or is_colour else b""


def _png_orientation(data: bytes) -> int:
    """Return what Pillow reads of a PNG with the same metadata and a single pixel."""
    metadata = [chunk for name, chunk in _png_chunks(data) if name in _PNG_METADATA]
    buffer = BytesIO()
    Image.new("L", (1, 1)).save(buffer, "PNG")
    header, *others = (chunk for _, chunk in _png_chunks(buffer.getvalue()))
    image = open_image(b"".join((data[:_PNG_SIGNATURE_BYTES], header, *metadata, *others)))
    image.load()
    return read_orientation(image)


def _strip_png(data: bytes, exif: bytes | None) -> Iterator[bytes]:
    for name, chunk in _png_chunks(data):
        if name in _PNG_KEPT:
            yield chunk
        if name == b"IHDR" and exif is not None:
            yield _png_chunk(b"eXIf", exif.removeprefix(_EXIF_HEADER))


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield each chunk with its name, as it is stored: length, name, content, checksum."""
    position = _PNG_SIGNATURE_BYTES
    while position < len(data):
        name = data[position + 4 : position + 8]
        end = position + 12 + int.from_bytes(data[position : position + 4])
        yield name, data[position:end]
        if name == b"IEND":
            return
        position = end


def _png_chunk(name: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4) + name + content + zlib.crc32(name + content).to_bytes(4)


def _strip_webp(data: bytes, exif: bytes | None) -> bytes:
    chunks = list(_webp_chunks(data))
    if exif is not None:
        content = exif.removeprefix(_EXIF_HEADER)
        chunks.append(b"EXIF" + len(content).to_bytes(4, "little") + content + b"\0" * (len(content) % 2))
    body = b"WEBP" + b"".join(_with_flags(chunk, has_exif=exif is not None) for chunk in chunks)
    return b"RIFF" + len(body).to_bytes(4, "little") + body


def _webp_chunks(data: bytes) -> Iterator[bytes]:
    position, end = 12, min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    while position + 8 <= end:
        size = int.from_bytes(data[position + 4 : position + 8], "little")
        following = position + 8 + size + size % 2
        if data[position : position + 4] in _WEBP_KEPT:
            yield data[position:following]
        position = following


def _with_flags(chunk: bytes, *, has_exif: bool) -> bytes:
    """Return a chunk; the one of the extended header says which metadata there are."""
    if not chunk.startswith(b"VP8X"):
        return chunk
    flags = chunk[8] & ~(_WEBP_EXIF | _WEBP_XMP) | (_WEBP_EXIF if has_exif else 0)
    return chunk[:8] + bytes([flags]) + chunk[9:]
