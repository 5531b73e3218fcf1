"""From the bytes of an image to what the model sees; the numbers are those of training's evaluation."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError, WebPImagePlugin
from pydantic import BaseModel, ConfigDict

from bloomery_serving.errors import RequestError

FORMATS = ("JPEG", "PNG", "BMP", WebPImagePlugin.WebPImageFile.format)
"""Pillow's names of what is accepted. Of these it knows WebP only once that plugin is imported."""

MAX_ASPECT = 100
"""Longer side to shorter. Resizing by the shorter side multiplies the longer one as well: a file of 17 KB with
1×65000 pixels would become one of 12 GB in memory."""

Tensor = NDArray[np.float32]


class Preprocess(BaseModel):
    """preprocess.json: resize the shorter side, cut out the centre, scale to 0…1, normalise."""

    model_config = ConfigDict(frozen=True)

    resize: int
    crop: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def read(cls, path: Path) -> Preprocess:
        """Read the file of a model folder."""
        return cls.model_validate_json(path.read_text())

    def tensor(self, image: Image.Image) -> Tensor:
        """Return an RGB image as float32 [3, crop, crop]."""
        image = _resize_shorter(image, self.resize)
        left, top = (image.width - self.crop) // 2, (image.height - self.crop) // 2
        pixels: Tensor = np.asarray(image.crop((left, top, left + self.crop, top + self.crop)), np.float32)
        mean, std = (np.asarray(values, np.float32) for values in (self.mean, self.std))
        return np.ascontiguousarray(((pixels / np.float32(255) - mean) / std).transpose(2, 0, 1))


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


def decode(file: ImageFile, limits: Limits) -> Image.Image:
    """Decode to RGB, upright by its EXIF orientation.

    Raises:
        RequestError: it is no image, of another format, or too large; names the file and what is accepted.
    """
    if len(file.data) > limits.bytes:
        message = f"{file.name} has {len(file.data)} bytes; an image may have {limits.bytes} at most."
        raise RequestError(413, "ImageTooLarge", message)
    try:
        # The header tells the size before any pixel is decoded.
        image: Image.Image = Image.open(io.BytesIO(file.data), formats=FORMATS)
    except Image.DecompressionBombError as error:  # Pillow's own cap comes before ours can be checked
        message = f"{file.name} has far too many pixels; an image may have {limits.pixels} at most."
        raise RequestError(413, "ImageTooLarge", message) from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise _not_an_image(file) from error
    if image.width * image.height > limits.pixels:
        message = f"{file.name} is {image.width}×{image.height} pixels; an image may have {limits.pixels} at most."
        raise RequestError(413, "ImageTooLarge", message)
    if max(image.size) > MAX_ASPECT * min(image.size):
        message = (
            f"{file.name} is {image.width}×{image.height} pixels; one side may be {MAX_ASPECT} times the other at most."
        )
        raise RequestError(400, "ImageTooNarrow", message)
    try:
        return _rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # decoders raise all sorts on damaged files: none may cost more than this image
        raise RequestError(400, "DamagedImage", f"{file.name} is damaged and can not be decoded.") from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        # 16 bits a pixel: Pillow would clip at 255 what should be scaled.
        return Image.fromarray((np.asarray(image, np.float32) / 257).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("P", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
    # As training does: what is transparent keeps its colour.
    return image.convert("RGB")


def _resize_shorter(image: Image.Image, side: int) -> Image.Image:
    width, height = image.size
    short = min(width, height)
    if short == side:
        return image
    size = (max(side, round(width * side / short)), max(side, round(height * side / short)))
    return image.resize(size, Image.Resampling.BILINEAR)


def _not_an_image(file: ImageFile) -> RequestError:
    return RequestError(400, "NotAnImage", f"{file.name} is not an image: JPEG, PNG, BMP and WebP are accepted.")
