"""Odd pictures: dark, bright, blank, blurred ones, and those with little information; each has a score."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from bloomery_model.decode import Pixels

Issue = Literal["Dark", "Bright", "Blank", "Blurred", "LowInformation"]

_MAX_SCORES: dict[Issue, float] = {
    "Dark": 0.25,
    "Bright": 0.1,
    "Blank": 0.02,
    "Blurred": 0.04,
    "LowInformation": 0.15,
}
"""The score up to which a picture is odd."""

_LEVELS = np.arange(256) / 255


def find_issues(grey: Pixels) -> dict[Issue, float]:
    """Return what is odd about a picture, each with its score from 0, the worst, to 1.

    The scores: ``Dark``, the brightness that 1 % of the pixels exceed; ``Bright``, the darkness that 5 % of them
    exceed; ``Blank``, the standard deviation of the brightness; ``Blurred``, the edges (the Laplacian) relative to
    that; ``LowInformation``, the entropy of the histogram as a share of eight bits.

    Args:
        grey: brightness, 0 to 255, of shape (height, width).
    """
    share = np.bincount(grey.ravel(), minlength=256) / grey.size
    mean = share @ _LEVELS
    deviation = float(np.sqrt(share @ np.square(_LEVELS - mean)))
    scores: dict[Issue, float] = {"Blank": deviation}
    if deviation > _MAX_SCORES["Blank"]:
        cumulated = share.cumsum()
        used = share[share > 0]
        scores = {
            "Dark": float(_LEVELS[cumulated.searchsorted(0.99)]),
            "Bright": 1 - float(_LEVELS[cumulated.searchsorted(0.05)]),
            "Blurred": _sharpness(grey) / deviation,
            "LowInformation": float(-(used @ np.log2(used))) / 8,
        }
    return {issue: round(score, 4) for issue, score in scores.items() if score <= _MAX_SCORES[issue]}


def _sharpness(grey: Pixels) -> float:
    """Return the standard deviation of the Laplacian, of brightness from 0 to 1."""
    height, width = grey.shape
    if min(height, width) < 3:
        return 1.0
    # One row behind another: a few long operations take a third of the time of as many for each row.
    pixels = grey.astype(np.float32).ravel()
    centres = pixels[width:-width]
    edges = 4 * centres
    edges -= pixels[: -2 * width]
    edges -= pixels[2 * width :]
    edges[1:-1] -= centres[:-2]
    edges[1:-1] -= centres[2:]
    # The first and the last pixel of a row have neighbours in other rows.
    flat = edges.reshape(height - 2, width)[:, 1:-1].ravel()
    # NumPy's own deviation takes several times as long.
    return math.sqrt(max(0.0, float(flat @ flat) / flat.size - (float(flat.sum()) / flat.size) ** 2)) / 4 / 255
