"""Spotlights: pictures of what a network saw, bright where it looked and dark elsewhere."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from bloomery_model.decode import Pixels

DIMMED = 0.25
"""Brightness of the parts that the network did not look at."""
OUTLINE = (255, 214, 0)
"""Colour of the line around the parts with at least half of the strongest heat: dark photographs hide brightness."""

_SIDE_PER_LINE = 112
"""Pixels of the shorter side for each pixel of the line's width."""


def heat_map(class_map: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the parts of a class activation map that speak for the class, as shares of the strongest one.

    Args:
        class_map: finite, float32 [h, w].

    Returns:
        float32 [h, w], 0 to 1; all 0 where nothing speaks for the class.
    """
    positive = np.maximum(class_map, np.float32(0))
    return np.asarray(positive / max(positive.max(), np.finfo(np.float32).tiny), np.float32)


def spotlight(pixels: Pixels, heat: NDArray[np.float32]) -> Image.Image:
    """Return an image [H, W, 3] that is as bright as its heat map [h, w], 0 to 1, says, with outlined hot parts."""
    height, width = pixels.shape[:2]
    mask = Image.fromarray((255 * heat).astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    light = DIMMED + (1 - DIMMED) * np.asarray(mask, np.float32)[..., None] / 255
    picture = (pixels * light).astype(np.uint8)
    hot = mask.point(lambda value: 255 if value >= 128 else 0)
    inner = hot.filter(ImageFilter.MinFilter(1 + 2 * max(1, min(width, height) // _SIDE_PER_LINE)))
    picture[np.asarray(hot) != np.asarray(inner)] = OUTLINE
    return Image.fromarray(picture)
