"""An uploaded image, and its limits."""

from __future__ import annotations

from dataclasses import dataclass

from PIL.Image import Image

from bloomery_model import ImageError, open_image

FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
"""Pillow's names of the formats that are accepted."""


@dataclass(frozen=True)
class ImageFile:
    """An image as it was sent: its file name, for messages, and its bytes."""

    name: str
    data: bytes


@dataclass(frozen=True)
class Limits:
    """The largest image that is accepted."""

    bytes: int
    pixels: int


def open_file(file: ImageFile, limits: Limits) -> Image:
    """Read the header of an uploaded image, no pixels.

    Raises:
        ImageError: it is no image, of another format, damaged or too large.
    """
    if len(file.data) > limits.bytes:
        raise ImageError("ImageTooLarge", f"{len(file.data)} bytes, more than {limits.bytes}")
    return open_image(file.data, formats=FORMATS, max_pixels=limits.pixels)
