"""Traffic of an InferenceService: weights in basis points, and their destinations on the route."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

TOTAL_WEIGHT = 10_000
"""All of the traffic: weights are basis points, so that a hundredth of a percent is a whole number."""

Weights = Mapping[str, int]
"""The weight of each revision in basis points; all together have ``TOTAL_WEIGHT``."""


@dataclass(frozen=True)
class Backend:
    """A revision on the route, its variant and its weight."""

    variant: str
    revision: str
    weight: int


@dataclass(frozen=True)
class Mirror:
    """A revision that gets a copy of ``percent`` percent of the traffic."""

    revision: str
    percent: int


@dataclass(frozen=True)
class Traffic:
    """Content of the HTTPRoute."""

    backends: tuple[Backend, ...] = ()
    direct: Mapping[str, str] = field(default_factory=dict)
    """For each variant the revision that its header selects."""
    mirrors: tuple[Mirror, ...] = ()


def normalise_weights(weights: Mapping[str, int]) -> dict[str, int]:
    """Scale weights to ``TOTAL_WEIGHT`` together, rounding up the largest remainders; empty if all are 0."""
    total = sum(weights.values())
    if total == 0:
        return {}
    scaled = {revision: weight * TOTAL_WEIGHT // total for revision, weight in weights.items()}
    by_remainder = sorted(weights, key=lambda revision: -(weights[revision] * TOTAL_WEIGHT % total))
    for revision in by_remainder[: TOTAL_WEIGHT - sum(scaled.values())]:
        scaled[revision] += 1
    return scaled


def same_weights(one: Weights, other: Weights) -> bool:
    """Return whether two splits are equal; a weight of 0 counts as absent."""
    return {r: w for r, w in one.items() if w} == {r: w for r, w in other.items() if w}
