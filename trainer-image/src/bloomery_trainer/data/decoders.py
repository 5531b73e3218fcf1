"""Decoders of image files, and the normalisation of their pixels.

Images travel as uint8 [3, H, W] and are normalised on the device; evaluation sees exactly the pixels that the model
server will cut from the same file.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bloomery_model import Preprocess, decode, resize_shorter
from bloomery_trainer.data.augment import largest_useful_side, random_crop_box
from bloomery_trainer.recipe import Recipe


class Decoder(Protocol):
    """Turns an image file's bytes into pixels, uint8 [3, H, W]."""

    @property
    def least_bytes(self) -> int:
        """The least memory for the pixels of an image."""

    def __call__(self, data: bytes) -> Tensor:
        """Decode one image."""


@dataclass(frozen=True)
class CenterCropDecoder:
    """Decodes to what the model sees in evaluation: [3, crop, crop]."""

    preprocess: Preprocess

    @property
    def least_bytes(self) -> int:
        """The least memory for the pixels of an image."""
        return 3 * self.preprocess.crop**2

    def __call__(self, data: bytes) -> Tensor:
        """Decode one image."""
        return to_tensor(self.preprocess.pixels(decode(data, min_side=self.preprocess.min_decode_side)))


@dataclass(frozen=True)
class ResizeDecoder:
    """Decodes the whole image, at a shorter side of ``side`` to ``largest`` pixels: what augmentation cuts from."""

    side: int
    largest: int

    @property
    def least_bytes(self) -> int:
        """The least memory for the pixels of an image."""
        return 3 * self.side**2

    def __call__(self, data: bytes) -> Tensor:
        """Decode one image."""
        image: Image.Image = decode(data, min_side=self.largest)
        side = min(max(self.side, min(image.size)), self.largest)
        return to_tensor(np.asarray(resize_shorter(image, side)))


@dataclass(frozen=True)
class ViewsDecoder:
    """Decodes to several views of an image: uint8 [count, 3, crop, crop]."""

    preprocess: Preprocess
    count: int
    seed: int
    flip_axes: tuple[int, ...]

    def __call__(self, data: bytes) -> Tensor:
        """Decode one image."""
        image = decode(data, min_side=self.preprocess.min_decode_side)
        cropped = to_tensor(self.preprocess.pixels(image))
        images = [cropped, *(cropped.flip(axis) for axis in self.flip_axes)]
        random = np.random.default_rng(self.seed)
        size = (self.preprocess.crop, self.preprocess.crop)
        while len(images) < self.count:
            box = random_crop_box(random, *image.size)
            crop = to_tensor(np.asarray(image.resize(size, Image.Resampling.BILINEAR, box=box)))
            images.append(crop.flip([axis for axis in self.flip_axes if random.random() < 0.5]))
        return torch.stack(images[: self.count])


def training_decoders(recipe: Recipe, preprocess: Preprocess) -> list[Decoder]:
    """Return the decoders of training images, best first; the others take less memory."""
    if recipe.augmentation == "None" and recipe.training_size == preprocess.crop:
        return [CenterCropDecoder(preprocess)]
    largest = largest_useful_side(recipe, resize=preprocess.resize)
    return [ResizeDecoder(preprocess.resize, side) for side in sorted({largest, preprocess.resize}, reverse=True)]


def normalise(images: Tensor, preprocess: Preprocess) -> Tensor:
    """Normalise uint8 [N, 3, H, W] to the input of the model: float32, scaled to 0…1, then by mean and deviation."""
    mean, std = _statistics(preprocess.mean, preprocess.std, images.device)
    return (images.to(torch.float32) / 255 - mean) / std


@lru_cache
def _statistics(
    mean: tuple[float, float, float], std: tuple[float, float, float], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return the mean and deviation on the device, each [3, 1, 1].

    They are copied there only once: copies from pageable memory make the host wait for the device.
    """
    with torch.inference_mode(False):
        return torch.tensor(mean, device=device).view(3, 1, 1), torch.tensor(std, device=device).view(3, 1, 1)


def to_tensor(pixels: np.ndarray) -> Tensor:
    """Copy pixels [H, W, 3] to a tensor [3, H, W]."""
    # The layout stays: with a pixel's channels side by side, resizing and cropping are faster.
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)
