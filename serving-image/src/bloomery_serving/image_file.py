"""An image file, its limits, and the sentences about one that cannot be used."""

from __future__ import annotations

from dataclasses import dataclass

from PIL.Image import Image

from bloomery_model import EXTENSIONS, ImageError, open_image

FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
"""Pillow's names of the formats that are accepted."""
FILE_EXTENSIONS = frozenset(extension for extension, kind in EXTENSIONS.items() if kind in FORMATS)
"""Extensions of their names, in lower case."""


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
    require_size(len(file.data), limits)
    return open_image(file.data, formats=FORMATS, max_pixels=limits.pixels)


def require_size(size: int, limits: Limits) -> None:
    """Check the size of a file, in bytes.

    Raises:
        ImageError: it is too large.
    """
    if size > limits.bytes:
        raise ImageError("ImageTooLarge", f"{size} bytes, more than {limits.bytes}")


def describe_image_error(name: str, error: ImageError) -> str:
    """Return the sentence about an image that cannot be decoded; it names the image and what is accepted."""
    match error.code:
        case "ImageTooLarge":
            return f"{name} is too large: {error}."
        case "ImageTooNarrow":
            return f"{name} is too narrow: {error}."
        # A library's own words for damage say nothing to a client but how the server is built.
        case "DamagedImage":
            return f"{name} is damaged and cannot be decoded."
        case "NotAnImage":
            return f"{name} is not an image: JPEG, PNG, BMP and WebP are accepted."


def describe_not_finite(name: str) -> str:
    """Return the sentence about an image for which the model gave no numbers."""
    return f"The model gives NaN or an infinity for {name}: the model fails, not the image."
