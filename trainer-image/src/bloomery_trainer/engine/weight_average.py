"""An exponential moving average of the weights, which is evaluated and exported in place of the last ones."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class WeightAverage:
    """The average after step t weighs what was there before by ``min(decay, (1 + t) / (10 + t))``.

    A constant decay would keep the random start for thousands of steps; this warm-up is TensorFlow's
    (``tf.train.ExponentialMovingAverage``, ``num_updates``). Buffers are averaged too, counters copied.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(model).requires_grad_(False)
        self._decay = decay
        averages, sources = list(self.module.state_dict().values()), list(model.state_dict().values())
        pairs = list(zip(averages, sources, strict=True))
        self._averages = [average for average, _ in pairs if average.is_floating_point()]
        self._sources = [source for average, source in pairs if average.is_floating_point()]
        self._counters = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after ``step`` steps; nothing waits for the device."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._averages, self._sources, 1 - decay)
        for average, source in self._counters:
            average.copy_(source)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averaged weights; how they go on depends on the step alone."""
        return self.module.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go back to saved weights."""
        self.module.load_state_dict(state)
