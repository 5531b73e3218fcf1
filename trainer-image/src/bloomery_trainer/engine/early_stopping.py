"""Early stopping: whether a training still gets better."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEAST_GAIN = 0.001
"""A metric that rises by less has not risen."""

NOTABLE_GAIN = 0.005
"""A best value in the last epochs that is higher by more shows that the metric was still rising."""


@dataclass
class Patience:
    """The last epoch in which the metric rose, and the value it reached then; epochs count from 1."""

    epoch: int = 0
    value: float = -1.0

    def update(self, epoch: int, value: float, *, is_warmup: bool = False) -> None:
        """Take in an epoch's metric; while the learning rate still rises, no epoch counts as one without gain."""
        if value >= self.value + LEAST_GAIN:
            self.epoch, self.value = epoch, value
        elif is_warmup:
            self.epoch = epoch

    def is_over(self, epoch: int, patience: int) -> bool:
        """Return whether so many epochs have passed without a gain."""
        return epoch - self.epoch >= patience


def is_still_improving(metrics: Sequence[float]) -> bool:
    """Return whether the best of the last tenth of the epochs is notably better than the best before.

    Args:
        metrics: the job's metric after each epoch of a run that went to its end.
    """
    last = math.ceil(len(metrics) / 10)
    before = metrics[:-last]
    return bool(before) and max(metrics[-last:]) > max(before) + NOTABLE_GAIN
