"""Random image files: every mode and format, odd sizes, damaged metadata, damaged bytes, and no images at all."""

from __future__ import annotations

import io
import random
import struct
import zlib
from functools import cache

from PIL import Image

from tests.unit.model_format.damaged import damaged_files, png_chunk

FORMATS = {"jpg": "JPEG", "png": "PNG", "bmp": "BMP", "gif": "GIF", "tif": "TIFF", "webp": "WEBP", "ppm": "PPM"}
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "YCbCr", "La", "RGBa")
SIDES = (1, 2, 31, 32, 33, 40, 64, 64, 257)
LARGE = ((4095, 4095), (4096, 40), (5001, 5000), (13000, 13000), (1, 65000), (65000, 400))
NO_IMAGES = (
    b"",
    b"\0",
    b"GIF89a",
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"RIFF\0\0\0\0WEBP",
    b"BM",
    b"II*\0",
    b"<svg/>",
)
BITS_PER_PIXEL = {0: 1, 2: 24, 6: 32}
"""Of each colour type of a PNG, at the depth that is written."""


def good_image(number: int) -> bytes:
    """Return an image that every rule allows; another for each number."""
    noise = random.Random(number).randbytes(40 * 40 * 3)
    return _encode(Image.frombytes("RGB", (40, 40), noise), "PNG")


def any_image(chance: random.Random) -> tuple[str, bytes]:
    """Return the extension and the bytes of a file, which need not fit."""
    way = chance.random()
    if way < 0.05:
        width, height = chance.choice(LARGE)
        # The largest one in one bit a pixel: it is as large once it is decoded, and drawn here in a second.
        colour_type = 0 if width * height > 30_000_000 else chance.choice(tuple(BITS_PER_PIXEL))
        return "png", flat_png(width, height, colour_type)
    if way < 0.3:
        file = chance.choice(list(damaged_files(15, seed=chance.getrandbits(32))))
        return file.name.rpartition(".")[2], file.data
    if way < 0.4:
        return chance.choice(tuple(FORMATS)), chance.choice((*NO_IMAGES, chance.randbytes(chance.randint(1, 3000))))
    extension, data = _drawn(chance)
    if chance.random() < 0.1:
        extension = chance.choice(tuple(FORMATS))
    return extension, hurt(data, chance) if chance.random() < 0.5 else data


def hurt(data: bytes, chance: random.Random) -> bytes:
    """Return the bytes cut, overwritten, repeated or with others inserted."""
    way, at = chance.randrange(4), chance.randint(0, len(data))
    if way == 0:
        return data[:at]
    if way == 1:
        return data[:at] + chance.randbytes(chance.randint(1, 64)) + data[at:]
    if way == 2:
        return data[:at] + data[chance.randint(0, len(data)) :]
    changed = bytearray(data)
    for _ in range(chance.randint(1, 20) if changed else 0):
        changed[chance.randrange(len(changed))] = chance.choice((0, 1, 127, 128, 255, chance.randrange(256)))
    return bytes(changed)


@cache
def flat_png(width: int, height: int, colour_type: int) -> bytes:
    """Return a whole PNG of zeros, of any size: it is never drawn here."""
    depth = 1 if colour_type == 0 else 8
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    row = bytes(1 + (width * BITS_PER_PIXEL[colour_type] + 7) // 8)
    packer = zlib.compressobj(1)
    pixels = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(name, content) for name, content in chunks)


def _drawn(chance: random.Random) -> tuple[str, bytes]:
    """Return an image in a mode that its format can hold, if the two that were drawn do not fit."""
    extension, mode = chance.choice(tuple(FORMATS)), chance.choice(MODES)
    image = Image.new(mode, (chance.choice(SIDES), chance.choice(SIDES)), chance.choice((0, 1)))
    options = {"exif": _orientation(chance)} if extension in ("jpg", "png", "webp") and chance.random() < 0.3 else {}
    try:
        return extension, _encode(image, FORMATS[extension], **options)
    except (OSError, ValueError):
        return extension, _encode(Image.new("RGB", image.size), FORMATS[extension])


def _orientation(chance: random.Random) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = chance.randint(0, 10)
    return exif


def _encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()
