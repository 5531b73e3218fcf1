"""Reading images with Pillow, and the one preprocessing that evaluation and serving share."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, TiffImagePlugin, WebPImagePlugin

Pixels = NDArray[np.uint8]

FORMATS = {
    "jpg": "JPEG",
    "jpeg": "JPEG",
    "png": "PNG",
    "bmp": "BMP",
    "gif": "GIF",
    "tif": "TIFF",
    "tiff": "TIFF",
    "webp": "WEBP",
}
"""File endings, and Pillow's name of the format. MPO is what Pillow calls a JPEG with several pictures."""

READABLE = ("BMP", "GIF", "JPEG", "PNG", TiffImagePlugin.TiffImageFile.format, WebPImagePlugin.WebPImageFile.format)
"""What Pillow is asked to try. It knows the last two only once their plugins are imported."""

MAX_ASPECT = 100
"""A narrower image can not be resized by its shorter side: a line of pixels would become gigabytes."""

SMALL = 96
"""Below this side in pixels, images are framed already: nothing is cut off their border."""


@dataclass(frozen=True)
class Preprocess:
    """From an image to what the model sees: resize the shorter side, cut the centre, scale, normalise."""

    resize: int
    crop: int
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: str = field(default="bilinear", init=False)
    colour: str = field(default="RGB", init=False)

    @classmethod
    def for_size(cls, side: int) -> Preprocess:
        """The usual frame: 256 for 224, in proportion; none for small images."""
        return cls(resize=side if side < SMALL else round(side * 256 / 224), crop=side)

    def pixels(self, image: Image.Image) -> Pixels:
        """The part of an RGB image that the model sees, uint8 [crop, crop, 3], before normalising."""
        image = resize_shorter(image, self.resize)
        left, top = (image.width - self.crop) // 2, (image.height - self.crop) // 2
        return np.asarray(image.crop((left, top, left + self.crop, top + self.crop)))

    def document(self) -> dict[str, Any]:
        """The content of preprocess.json."""
        return {
            "resize": self.resize,
            "crop": self.crop,
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation,
            "colour": self.colour,
        }


def decode(data: bytes, *, at_least: int | None = None) -> Image.Image:
    """Decodes to RGB, upright by its EXIF orientation.

    Args:
        data: the file's bytes.
        at_least: where given, a JPEG may be decoded smaller (in eighths), with its shorter side no less than
            this many pixels; much faster, and not quite the same pixels.
    """
    image: Image.Image = Image.open(io.BytesIO(data), formats=READABLE)
    if at_least is not None:
        image.draft("RGB", (at_least, at_least))
    return _rgb(ImageOps.exif_transpose(image))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        # 16 bits a pixel: Pillow would clip at 255 what should be scaled. Serving does the same.
        return Image.fromarray((np.asarray(image, np.float32) / 257).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("P", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def resize_shorter(image: Image.Image, side: int) -> Image.Image:
    """Resizes so that the shorter side has `side` pixels, antialiased bilinear."""
    width, height = image.size
    short = min(width, height)
    if short == side:
        return image
    size = (max(side, round(width * side / short)), max(side, round(height * side / short)))
    return image.resize(size, Image.Resampling.BILINEAR)
