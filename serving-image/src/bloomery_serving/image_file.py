"""An uploaded image, what it may have at most, and its decoding in terms of HTTP."""

from __future__ import annotations

from dataclasses import dataclass

from PIL.Image import Image

from bloomery_model import ImageError, decode
from bloomery_serving.errors import RequestError

FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
"""Pillow's names of what is accepted."""


@dataclass(frozen=True)
class ImageFile:
    """An image as it was sent: its file name, for messages, and its bytes."""

    name: str
    data: bytes


@dataclass(frozen=True)
class Limits:
    """What one image may have at most."""

    bytes: int
    pixels: int


def decode_file(file: ImageFile, limits: Limits, *, min_side: int | None = None) -> Image:
    """Decode an uploaded image as training does.

    Args:
        file: the upload.
        limits: what it may have at most.
        min_side: as for ``bloomery_model.decode``.

    Raises:
        RequestError: it is no image, of another format, damaged or too large; names the file and what is accepted.
    """
    if len(file.data) > limits.bytes:
        message = f"{file.name} has {len(file.data)} bytes; an image may have {limits.bytes} at most."
        raise RequestError(413, "ImageTooLarge", message)
    try:
        return decode(file.data, min_side=min_side, formats=FORMATS, max_pixels=limits.pixels)
    except ImageError as error:
        raise _request_error(file, error) from error


def _request_error(file: ImageFile, error: ImageError) -> RequestError:
    match error.code:
        case "ImageTooLarge":
            return RequestError(413, "ImageTooLarge", f"{file.name} is too large: {error}.")
        case "ImageTooNarrow":
            return RequestError(400, "ImageTooNarrow", f"{file.name} is too narrow: {error}.")
        # A library's own words for damage say nothing to a client but how the server is built.
        case "DamagedImage":
            return RequestError(400, "DamagedImage", f"{file.name} is damaged and cannot be decoded.")
        case "NotAnImage":
            return RequestError(
                400, "NotAnImage", f"{file.name} is not an image: JPEG, PNG, BMP and WebP are accepted."
            )
