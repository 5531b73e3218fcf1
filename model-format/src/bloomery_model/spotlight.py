"""Spotlights: pictures of what a network saw, bright where it looked and dark elsewhere."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bloomery_model.decode import Pixels

DIMMED = 0.25
"""Brightness of the parts that the network did not look at."""


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
    """Return an image [H, W, 3] that is as bright as its heat map [h, w], 0 to 1, says."""
    height, width = pixels.shape[:2]
    mask = Image.fromarray((255 * heat).astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    light = DIMMED + (1 - DIMMED) * np.asarray(mask, np.float32)[..., None] / 255
    return Image.fromarray((pixels * light).astype(np.uint8))
