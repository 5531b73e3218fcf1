"""Image bytes to upright RGB pixels: the one decoder of preparation, training, evaluation and the model server.

A file is either decoded to the same pixels everywhere, or it is an ``ImageError`` everywhere. Metadata decides about
nothing but the orientation: an EXIF block that cannot be read counts as "upright" (EXIF 3.0, tag 0x0112, value 1).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin

Pixels = NDArray[np.uint8]

# Pillow knows these two formats only once their plugins are imported; the imports above do that.
_TIFF = TiffImagePlugin.TiffImageFile.format
_WEBP = WebPImagePlugin.WebPImageFile.format

EXTENSIONS = {
    "jpg": "JPEG",
    "jpeg": "JPEG",
    "jpe": "JPEG",
    "jfif": "JPEG",
    "png": "PNG",
    "bmp": "BMP",
    "gif": "GIF",
    "tif": _TIFF,
    "tiff": _TIFF,
    "webp": _WEBP,
}
"""File name extensions, and Pillow's name of the format."""

READABLE_FORMATS = tuple(sorted(set(EXTENSIONS.values())))
"""Pillow's names of all formats that can be decoded. A JPEG with several pictures opens as MPO."""

MAX_ASPECT = 100
"""Longest side to shortest. Resizing by the shorter side enlarges the longer one as well: a file of 17 KB with
1×65000 pixels would take 12 GB of memory."""

ErrorCode = Literal["NotAnImage", "DamagedImage", "ImageTooLarge", "ImageTooNarrow"]

_ORIENTATION = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ROWS = 256
"""Rows of a 16-bit image that are scaled at a time: the whole as float32 would take twice its own memory."""
_BYTES_PER_PIXEL = 8
"""Most bytes of memory that a pixel takes while it is decoded: two copies at a time, of four bytes."""
_WEBP_BYTES_PER_PIXEL = 16
"""The same of WebP, whose library keeps two canvases of its own."""
_COEFFICIENT_BYTES = 2
"""Bytes of a channel of a pixel of a progressive JPEG, which is held as a whole until its last scan."""
_MAX_JPEG_SCALE = 8
"""A JPEG can be decoded at 1/2, 1/4 and 1/8 of its size."""
_MAX_CAUSE_CHARS = 200


class ImageError(Exception):
    """An image that cannot be used; the message says why, to stand behind the image's name and a colon.

    Attributes:
        code: NotAnImage: no image, or of a format that is not accepted. DamagedImage: it cannot be decoded; the message
            is the cause in Pillow's words. ImageTooLarge: too many pixels. ImageTooNarrow: one side is over MAX_ASPECT
            times the other.
    """

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code: ErrorCode = code

    def __reduce__(self) -> tuple[type[ImageError], tuple[ErrorCode, str]]:
        """Allow it to be sent between processes."""
        return type(self), (self.code, str(self))


def decode(
    data: bytes,
    *,
    min_side: int | None = None,
    formats: Sequence[str] = READABLE_FORMATS,
    max_pixels: int | None = None,
) -> Image.Image:
    """Decode an image file to RGB, upright by its EXIF orientation, without metadata.

    Args:
        data: the file's bytes.
        min_side: allows a JPEG to be decoded at 1/2, 1/4 or 1/8 of its size, as long as both sides keep at least this
            many pixels. Much faster for large photos, and not exactly the same pixels.
        formats: Pillow's names of the formats to accept.
        max_pixels: width times height at most, checked before any pixel is decoded.

    Raises:
        ImageError: the image cannot be decoded; no other exception but MemoryError comes from a file's content.
    """
    return to_rgb(open_image(data, formats=formats, max_pixels=max_pixels), min_side=min_side)


def open_image(data: bytes, *, formats: Sequence[str] = READABLE_FORMATS, max_pixels: int | None = None) -> Image.Image:
    """Read the header of an image file: its format and size, no pixels.

    Raises:
        ImageError: as ``decode``.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=tuple(formats))
    except UnidentifiedImageError as error:
        raise ImageError("NotAnImage", "not an image that can be read") from error
    except Image.DecompressionBombError as error:  # Pillow's own limit
        raise ImageError("ImageTooLarge", "more pixels than can be decoded safely") from error
    except MemoryError:  # says nothing about the file
        raise
    except Exception as error:  # Pillow's plugins raise many types on damaged headers
        raise ImageError("DamagedImage", _cause(error)) from error
    width, height = image.size
    if max_pixels is not None and width * height > max_pixels:
        raise ImageError("ImageTooLarge", f"{width}×{height} pixels, more than {max_pixels}")
    return image


def decoding_bytes(image: Image.Image, *, min_side: int | None = None) -> int:
    """Return the most memory that ``to_rgb`` will take for an image from ``open_image``; no pixel is decoded for it."""
    width, height = image.size
    pixels = width * height
    if image.format == _WEBP:
        return pixels * _WEBP_BYTES_PER_PIXEL
    if image.format not in ("JPEG", "MPO"):
        return pixels * _BYTES_PER_PIXEL
    scale = 1
    while min_side is not None and scale < _MAX_JPEG_SCALE and min(width, height) >= 2 * scale * min_side:
        scale *= 2
    coefficients = _COEFFICIENT_BYTES * len(image.getbands()) if image.info.get("progressive") else 0
    return pixels * coefficients + pixels * _BYTES_PER_PIXEL // scale**2


def to_rgb(image: Image.Image, *, min_side: int | None = None) -> Image.Image:
    """Decode the pixels of an image from ``open_image``, which is closed; ``decode`` explains the rest.

    Raises:
        ImageError: as ``decode``.
    """
    return _decode_pixels(image, "RGB", min_side)


def to_grey(image: Image.Image, *, min_side: int | None = None) -> Image.Image:
    """Decode the brightness of an image from ``open_image`` to mode ``L``, as ``to_rgb`` does all of its colours.

    All of a JPEG is read, so it fails on the same files, but its colours are not computed, which saves a sixth.

    Raises:
        ImageError: as ``decode``.
    """
    return _decode_pixels(image, "L", min_side)


def _decode_pixels(image: Image.Image, mode: Literal["RGB", "L"], min_side: int | None) -> Image.Image:
    width, height = image.size
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageError("ImageTooNarrow", f"{width}×{height}, more than {MAX_ASPECT}:1")
    try:
        if min_side is not None:
            # libjpeg knows no brightness of CMYK.
            image.draft(mode if image.mode == "RGB" else "RGB", (min_side, min_side))
        image.load()
        transpose = _TRANSPOSE.get(_orientation(image))
        if transpose is not None:
            image = _replace(image, image.transpose(transpose))
        pixels = _convert(image, mode)
    except Image.DecompressionBombError as error:
        raise ImageError("ImageTooLarge", "more pixels than can be decoded safely") from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise many types on damaged data
        raise ImageError("DamagedImage", _cause(error)) from error
    pixels.info = {}
    return pixels


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8, of a loaded image; 1 ("upright") if it cannot be read.

    ``ImageOps.exif_transpose`` is not used: it writes the whole EXIF block again, and fails on tags of unusual types,
    which many cameras and editors write.
    """
    try:
        value = image.getexif().get(_ORIENTATION, 1)
        return int(value) if value in _TRANSPOSE else 1
    except Exception:  # damaged EXIF raises SyntaxError, struct.error, TypeError and more
        return 1


def _convert(image: Image.Image, mode: Literal["RGB", "L"]) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        image = _replace(image, _scale_16_bit(image))
    elif image.mode in ("P", "LA", "PA") or "transparency" in image.info:
        image = _replace(image, image.convert("RGBA"))
    # Transparent pixels keep their colour.
    return image if image.mode == mode else _replace(image, image.convert(mode))


def _replace(image: Image.Image, successor: Image.Image) -> Image.Image:
    """Free an image's pixels, of which a caller further up may hold a reference, and return its successor."""
    if successor is not image:
        image.close()
    return successor


def _scale_16_bit(image: Image.Image) -> Image.Image:
    """Scale 16 bits a pixel to 8; Pillow's own conversion would clip at 255."""
    width, height = image.size
    scaled = Image.new("L", image.size)
    for top in range(0, height, _ROWS):
        rows = np.asarray(image.crop((0, top, width, min(top + _ROWS, height)))).astype(np.float32) / 257
        scaled.paste(Image.fromarray(np.nan_to_num(rows).clip(0, 255).astype(np.uint8)), (0, top))
    return scaled


def _cause(error: Exception) -> str:
    """Return an exception's message on one line, as text that every file and header can hold."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words.encode("utf-8", "replace").decode()[:_MAX_CAUSE_CHARS]
