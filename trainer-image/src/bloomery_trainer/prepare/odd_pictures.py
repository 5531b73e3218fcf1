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
        cumulated = np.cumsum(share)
        used = share[share > 0]
        scores = {
            "Dark": float(_LEVELS[np.searchsorted(cumulated, 0.99)]),
            "Bright": 1 - float(_LEVELS[np.searchsorted(cumulated, 0.05)]),
            "Blurred": _sharpness(grey) / deviation,
            "LowInformation": float(-(used @ np.log2(used))) / 8,
        }
    return {issue: round(score, 4) for issue, score in scores.items() if score <= _MAX_SCORES[issue]}


def _sharpness(grey: Pixels) -> float:
    """Return the standard deviation of the Laplacian, of brightness from 0 to 1."""
    if min(grey.shape) < 3:
        return 1.0
    pixels = grey.astype(np.float32)
    edges = 4 * pixels[1:-1, 1:-1]
    for neighbours in (pixels[:-2, 1:-1], pixels[2:, 1:-1], pixels[1:-1, :-2], pixels[1:-1, 2:]):
        edges -= neighbours
    flat = edges.ravel()
    # NumPy's own deviation takes several times as long.
    return math.sqrt(max(0.0, float(flat @ flat) / flat.size - float(flat.mean()) ** 2)) / 4 / 255
