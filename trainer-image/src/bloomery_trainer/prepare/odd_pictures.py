"""Odd pictures: dark, bright, blank, blurred ones, and those with little information; each has a score."""

from __future__ import annotations

from typing import Literal

import numpy as np
from PIL import Image

Issue = Literal["Dark", "Bright", "Blank", "Blurred", "LowInformation"]

_MAX_SCORES: dict[Issue, float] = {
    "Dark": 0.25,
    "Bright": 0.1,
    "Blank": 0.02,
    "Blurred": 0.04,
    "LowInformation": 0.15,
}
"""The score up to which a picture is odd."""


def find_issues(grey: Image.Image) -> dict[Issue, float]:
    """Return what is odd about a picture in mode ``L``, each with its score from 0, the worst, to 1.

    The scores: ``Dark``, the brightness that 1 % of the pixels exceed; ``Bright``, the darkness that 5 % of them
    exceed; ``Blank``, the standard deviation of the brightness; ``Blurred``, the edges (the Laplacian) relative to
    that; ``LowInformation``, the entropy of the histogram as a share of eight bits.
    """
    counts = np.array(grey.histogram(), dtype=np.float64)
    share = counts / counts.sum()
    cumulated = np.cumsum(share)
    levels = np.arange(256) / 255
    deviation = float(np.sqrt(max(0.0, share @ levels**2 - (share @ levels) ** 2)))
    scores: dict[Issue, float] = {"Blank": deviation}
    if deviation > _MAX_SCORES["Blank"]:
        used = share[share > 0]
        scores = {
            "Dark": float(levels[np.searchsorted(cumulated, 0.99)]),
            "Bright": 1 - float(levels[np.searchsorted(cumulated, 0.05)]),
            "Blurred": _sharpness(grey) / deviation,
            "LowInformation": float(-(used * np.log2(used)).sum()) / 8,
        }
    return {issue: round(score, 4) for issue, score in scores.items() if score <= _MAX_SCORES[issue]}


def _sharpness(grey: Image.Image) -> float:
    """Return the standard deviation of the Laplacian, of brightness from 0 to 1."""
    pixels = np.asarray(grey, dtype=np.int16)
    if min(pixels.shape) < 3:
        return 1.0
    inner = 4 * pixels[1:-1, 1:-1]
    edges = inner - pixels[:-2, 1:-1] - pixels[2:, 1:-1] - pixels[1:-1, :-2] - pixels[1:-1, 2:]
    return float(edges.std()) / 4 / 255
