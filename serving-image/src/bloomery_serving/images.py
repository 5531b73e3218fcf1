"""From the bytes of an image to what the model sees; the numbers are those of training's evaluation."""

from __future__ import annotations

import codecs
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError, WebPImagePlugin
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bloomery_serving.errors import ModelError, RequestError, name_fields

FORMATS = ("JPEG", "PNG", "BMP", WebPImagePlugin.WebPImageFile.format)
"""Pillow's names of what is accepted. Of these it knows WebP only once that plugin is imported."""

SMALL = 96
"""Below this side in pixels, images are framed already: nothing is cut off their border."""

MAX_ASPECT = 100
"""Longer side to shorter. Resizing by the shorter side multiplies the longer one as well: a file of 17 KB with
1×65000 pixels would become one of 12 GB in memory."""

Tensor = NDArray[np.float32]
_Shift = Annotated[float, Field(allow_inf_nan=False)]
_Scale = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Preprocess(BaseModel):
    """preprocess.json: resize the shorter side, cut out the centre, scale to 0…1, normalise."""

    model_config = ConfigDict(frozen=True)

    resize: int
    crop: int
    mean: tuple[_Shift, _Shift, _Shift]
    std: tuple[_Scale, _Scale, _Scale]

    @classmethod
    def read(cls, path: Path) -> Preprocess:
        """Read the file of a model folder.

        Raises:
            ModelError: a field is missing or can not be; names it.
        """
        try:
            return cls.model_validate_json(path.read_bytes().removeprefix(codecs.BOM_UTF8))
        except ValidationError as error:
            fields = name_fields(error.errors(), whole="the file")
            raise ModelError("BadPreprocess", f"{path.name} is not as it should be: {fields}.") from error

    @classmethod
    def for_side(cls, side: int) -> Preprocess:
        """Return what a classifier most likely wants that says nothing but its size: ImageNet's customs."""
        resize = side if side < SMALL else round(side * 256 / 224)
        return cls(resize=resize, crop=side, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

    @model_validator(mode="after")
    def _fits(self) -> Preprocess:
        if not 0 < self.crop <= self.resize:
            raise ValueError(f"crop is {self.crop} and resize {self.resize}; the cut can not be larger than the image")
        return self

    @property
    def enough(self) -> int:
        """The shorter side, in pixels, at which a larger JPEG may be decoded, as training's evaluation does."""
        return 2 * self.resize

    def tensor(self, image: Image.Image) -> Tensor:
        """Return an RGB image as float32 [3, crop, crop]."""
        pixels = np.asarray(_resized_centre(image, self.resize, self.crop))
        tensor = np.empty((3, self.crop, self.crop), np.float32)
        for channel, (mean, std) in enumerate(zip(self.mean, self.std, strict=True)):
            # Scaled and shifted in two passes; the textbook's four cost as much as decoding.
            np.multiply(pixels[..., channel], np.float32(1 / (255 * std)), out=tensor[channel])
            tensor[channel] -= np.float32(mean / std)
        return tensor


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


def decode(file: ImageFile, limits: Limits, *, at_least: int | None = None) -> Image.Image:
    """Decode to RGB, upright by its EXIF orientation.

    Args:
        at_least: where given, a JPEG may be decoded smaller (in eighths), with its shorter side no less than this
            many pixels: much faster for the photos of today's cameras.

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
        if at_least is not None:
            image.draft(None, (at_least, at_least))
        ImageOps.exif_transpose(image, in_place=True)
        return _rgb(image)
    except Exception as error:  # decoders raise all sorts on damaged files: none may cost more than this image
        raise RequestError(400, "DamagedImage", f"{file.name} is damaged and can not be decoded.") from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        # 16 bits a pixel: Pillow would clip at 255 what should be scaled.
        return Image.fromarray((np.asarray(image, np.float32) / 257).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("P", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
    # As training does: what is transparent keeps its colour.
    return image if image.mode == "RGB" else image.convert("RGB")


def _resized_centre(image: Image.Image, resize: int, crop: int) -> Image.Image:
    """Return the centre of the image as if it had been resized by its shorter side; only that part is computed."""
    width, height = image.size
    short = min(width, height)
    full = (max(resize, round(width * resize / short)), max(resize, round(height * resize / short)))
    left, top = (full[0] - crop) // 2, (full[1] - crop) // 2
    if short == resize:
        return image.crop((left, top, left + crop, top + crop))
    across, down = width / full[0], height / full[1]
    box = (left * across, top * down, (left + crop) * across, (top + crop) * down)
    return image.resize((crop, crop), Image.Resampling.BILINEAR, box=box)


def _not_an_image(file: ImageFile) -> RequestError:
    return RequestError(400, "NotAnImage", f"{file.name} is not an image: JPEG, PNG, BMP and WebP are accepted.")
