"""Random changes of training images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torchvision.transforms import InterpolationMode, v2  # type: ignore[import-untyped]

from bloomery_model import Preprocess
from bloomery_trainer.recipe import Recipe

LIGHT_CROP_SCALE = (0.7, 1.0)
LIGHT_CROP_RATIO = (0.9, 1.1)
CROPS_SCALE = (0.25, 1.0)
CROPS_RATIO = (3 / 4, 4 / 3)
"""Of a random crop: its share of the image's area, and its width to its height before it is resized."""

_ERASING_PROBABILITY = 0.1
_MAX_ENLARGEMENT = 2


def augmentation(recipe: Recipe, mean: Sequence[float] = Preprocess.mean) -> v2.Transform | None:
    """Return the transform of each training image, uint8 [3, H, W] to uint8 [3, training size, training size].

    None if none.

    TrivialAugment (arXiv:2103.10158) and random erasing (arXiv:1708.04896) are torchvision's, as its reference
    recipes use them.

    Args:
        recipe: names the augmentation and the size.
        mean: of each channel, 0 to 1, by which images are normalised: the colour of what is erased.
    """
    steps: list[v2.Transform] = []
    crop = _crop(recipe)
    if crop is not None:
        scale, ratio = crop
        steps.append(v2.RandomResizedCrop(recipe.training_size, scale=scale, ratio=ratio, antialias=True))
    if recipe.augmentation == "TrivialAugment":
        steps.append(v2.TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR))
        steps.append(v2.RandomErasing(p=_ERASING_PROBABILITY, value=[round(255 * channel) for channel in mean]))
    if recipe.horizontal_flip:
        steps.append(v2.RandomHorizontalFlip())
    if recipe.vertical_flip:
        steps.append(v2.RandomVerticalFlip())
    return v2.Compose(steps) if steps else None


def largest_useful_side(recipe: Recipe, *, resize: int) -> int:
    """Return the shorter side, in pixels, from which the smallest random crop need not be enlarged.

    At least ``resize``, at most twice that.
    """
    crop = _crop(recipe)
    if crop is None:
        return resize
    side = math.ceil(recipe.training_size / math.sqrt(crop[0][0]))
    return max(resize, min(side, _MAX_ENLARGEMENT * resize))


def random_crop_box(random: np.random.Generator, width: int, height: int) -> tuple[float, float, float, float]:
    """Draw a box (left, top, right, bottom) in an image, of CROPS_SCALE and CROPS_RATIO, as torchvision does."""
    low, high = np.log(CROPS_RATIO)
    for _ in range(10):
        area = width * height * random.uniform(*CROPS_SCALE)
        ratio = math.exp(random.uniform(low, high))
        across, down = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if across <= width and down <= height:
            left, top = random.uniform(0, width - across), random.uniform(0, height - down)
            return left, top, left + across, top + down
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def _crop(recipe: Recipe) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """Return the scale and ratio of the recipe's random crop."""
    if recipe.augmentation == "None":
        return None
    if recipe.augmentation == "Light":
        return LIGHT_CROP_SCALE, LIGHT_CROP_RATIO
    return CROPS_SCALE, CROPS_RATIO
