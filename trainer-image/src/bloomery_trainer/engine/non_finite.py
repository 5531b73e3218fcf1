"""Steps with a gradient that is not finite: each is skipped, and too many of them end the training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

MOST_IN_A_ROW = 20
"""So many halvings of a GradScaler's scale take it from its start, 65,536, to below 1."""

MOST_OF_ALL = 0.05
"""Of a run's steps, those that may be left out before it counts as diverged."""


@dataclass
class SkippedSteps:
    """The number of skipped steps, in all and in a row."""

    total: int = 0
    in_a_row: int = 0

    def update(self, finite: Sequence[bool], *, total_steps: int) -> int | None:
        """Take in steps in their order; the index of the one with which the training has diverged, if any has."""
        most = max(MOST_IN_A_ROW, int(MOST_OF_ALL * total_steps))
        for index, is_finite in enumerate(finite):
            self.in_a_row = 0 if is_finite else self.in_a_row + 1
            self.total += not is_finite
            if self.in_a_row >= MOST_IN_A_ROW or self.total > most:
                return index
        return None


class BufferBackup:
    """The statistics of batch norms as they were at the last finite step.

    A forward pass that overflows leaves NaN in the running means for good; training does not use them, evaluation does.
    """

    def __init__(self, models: Iterable[nn.Module]) -> None:
        self._buffers = [buffer for model in models for buffer in model.buffers() if buffer.is_floating_point()]
        self._copies: list[Tensor] = []
        self.save()

    def save(self) -> None:
        """Remember the present values."""
        self._copies = [buffer.clone() for buffer in self._buffers]

    def restore_non_finite(self) -> None:
        """Go back to the remembered values of each buffer that holds something else than numbers."""
        for buffer, copy in zip(self._buffers, self._copies, strict=True):
            if not bool(torch.isfinite(buffer).all()):
                buffer.copy_(copy)


def clip_and_step(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, *, max_norm: float) -> Tensor:
    """Clip the gradient's norm (arXiv:1211.5063), take the step unless it is no number, and drop the gradient.

    The optimizer's fused kernel looks at ``found_inf`` itself, so nothing waits for the device.

    Returns:
        Whether the step was taken: float32, 1 or 0, on the device.
    """
    scaler.unscale_(optimizer)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    finite = torch.isfinite(norm).to(torch.float32)
    optimizer.found_inf = 1 - finite  # type: ignore[attr-defined]
    optimizer.step()
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return finite
