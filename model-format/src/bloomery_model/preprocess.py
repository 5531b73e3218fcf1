"""``preprocess.json``: from an RGB image to the input of a model."""

from __future__ import annotations

import codecs
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, Field, ValidationError, model_validator

from bloomery_model.decode import Pixels

Tensor = NDArray[np.float32]

NO_RESIZE_BELOW = 96
"""Pixels. Smaller images are cropped already: nothing is cut off their border."""

_MAX_ERRORS = 5
_Shift = Annotated[float, Field(allow_inf_nan=False)]
_Scale = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class PreprocessError(ValueError):
    """A preprocess.json that cannot be used; the message names its fields."""


class _Document(BaseModel):
    """The content of preprocess.json; other fields are ignored."""

    resize: int
    crop: int
    mean: tuple[_Shift, _Shift, _Shift]
    std: tuple[_Scale, _Scale, _Scale]

    @model_validator(mode="after")
    def _crop_fits(self) -> _Document:
        if not 0 < self.crop <= self.resize:
            raise ValueError(f"crop is {self.crop} and resize {self.resize}; the cut cannot be larger than the image")
        return self


@dataclass(frozen=True)
class Preprocess:
    """Resize the shorter side, crop the centre, scale to 0…1, normalise.

    Attributes:
        resize: shorter side in pixels before the crop.
        crop: side of the square that the model takes, in pixels.
        mean: of each channel, on the scale 0…1; the default is ImageNet's.
        std: of each channel, on the scale 0…1; the default is ImageNet's.
    """

    resize: int
    crop: int
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: str = field(default="bilinear", init=False)
    colour: str = field(default="RGB", init=False)

    @classmethod
    def for_size(cls, side: int) -> Preprocess:
        """Return ImageNet's evaluation protocol for a model of this size: resize 256 for 224, in proportion."""
        return cls(resize=side if side < NO_RESIZE_BELOW else round(side * 256 / 224), crop=side)

    @classmethod
    def read(cls, content: bytes) -> Preprocess:
        """Parse the content of preprocess.json.

        Raises:
            PreprocessError: a field is missing or invalid; names it.
        """
        try:
            document = _Document.model_validate_json(content.removeprefix(codecs.BOM_UTF8))
        except ValidationError as error:
            fields = (f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}" for e in error.errors()[:_MAX_ERRORS])
            raise PreprocessError("; ".join(fields)) from error
        return cls(resize=document.resize, crop=document.crop, mean=document.mean, std=document.std)

    def document(self) -> dict[str, Any]:
        """Return the content of preprocess.json."""
        return {
            "resize": self.resize,
            "crop": self.crop,
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation,
            "colour": self.colour,
        }

    @property
    def min_decode_side(self) -> int:
        """Shorter side in pixels that a JPEG must keep if it is decoded smaller: twice the side after resizing.

        A photo of ten megapixels takes a sixth of the time, and the pixels differ by less than 1 of 255 on average.
        """
        return 2 * self.resize

    def pixels(self, image: Image.Image) -> Pixels:
        """Return the pixels that the model sees of an RGB image, uint8 [crop, crop, 3], before normalising."""
        # The same as resizing the whole image and cropping; only the crop is computed.
        width, height = image.size
        full_width, full_height = _resized(image.size, self.resize)
        left, top = (full_width - self.crop) // 2, (full_height - self.crop) // 2
        if image.size == (full_width, full_height):
            return np.asarray(image.crop((left, top, left + self.crop, top + self.crop)))
        across, down = width / full_width, height / full_height
        box = (left * across, top * down, (left + self.crop) * across, (top + self.crop) * down)
        return np.asarray(image.resize((self.crop, self.crop), Image.Resampling.BILINEAR, box=box))

    def tensor(self, image: Image.Image) -> Tensor:
        """Return the model's input for an RGB image, float32 [3, crop, crop]."""
        return self.normalise(self.pixels(image))

    def normalise(self, pixels: Pixels) -> Tensor:
        """Return the model's input for the pixels that it sees, float32 [3, crop, crop]."""
        tensor = np.empty((3, self.crop, self.crop), np.float32)
        for channel, (mean, std) in enumerate(zip(self.mean, self.std, strict=True)):
            # (x / 255 - mean) / std in two passes: four would take as long as decoding.
            np.multiply(pixels[..., channel], np.float32(1 / (255 * std)), out=tensor[channel])
            tensor[channel] -= np.float32(mean / std)
        return tensor


def resize_shorter(image: Image.Image, side: int) -> Image.Image:
    """Resize an image so that its shorter side has ``side`` pixels, by antialiased bilinear interpolation."""
    size = _resized(image.size, side)
    return image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)


def _resized(size: tuple[int, int], side: int) -> tuple[int, int]:
    width, height = size
    shorter = min(size)
    return max(side, round(width * side / shorter)), max(side, round(height * side / shorter))
