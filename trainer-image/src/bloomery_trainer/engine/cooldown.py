"""The end of a training that comes before its last step: the learning rate still falls to nothing.

Stopping at a high rate costs points of accuracy, and a short linear decay wins most of them back (Hägele et al. 2024,
arXiv:2405.18392). So time, a person or early stopping decide only when this cool-down begins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

CooldownReason = Literal["StoppedEarly", "Stopped", "TrainingTimeReached"]

STOP_SHARE = 0.1
"""Of the steps done, those of the cool-down after ``stop``, at most."""

STOP_SECONDS = 300.0
"""The longest cool-down after ``stop``: a person waits for it."""

EARLY_STOPPING_SHARE = 0.1
"""Of the steps done, those of the cool-down after early stopping."""

TIME_SHARE = 0.2
"""Of the steps done, those of the cool-down where the time for training ends."""

_TIME_MARGIN = 0.95
"""Of the time that is left, the part that is planned with: steps are not all equally quick."""


@dataclass(frozen=True, kw_only=True)
class Cooldown:
    """``steps`` steps from step ``start`` on: the rate falls in a line from ``factor`` of the full one to 0."""

    reason: CooldownReason
    start: int
    steps: int
    factor: float

    @property
    def end(self) -> int:
        """The number of steps done when it is over."""
        return self.start + self.steps

    def factor_at(self, step: int) -> float:
        """Return the share of the full learning rate at a step, counted from 0."""
        return self.factor * max(0, self.end - step) / (self.steps + 1)


@dataclass(frozen=True, kw_only=True)
class Pace:
    """The speed of a training, over all its starts.

    Attributes:
        step: steps done.
        left: steps to the end of the run, or of the cool-down under way.
        seconds: spent on these steps and the evaluations between them.
        evaluation_seconds: of one evaluation.
        max_seconds: the time for all; None if it is not limited.
    """

    step: int
    left: int
    seconds: float
    evaluation_seconds: float = 0.0
    max_seconds: float | None = None

    @property
    def seconds_per_step(self) -> float:
        """Mean over all steps, evaluations included."""
        return self.seconds / self.step if self.step else 0.0

    @property
    def steps_in_time(self) -> int | None:
        """Steps that can still be done before the last evaluation; None if time is not limited."""
        if self.max_seconds is None or not self.seconds:
            return None
        seconds = (self.max_seconds - self.seconds) * _TIME_MARGIN - self.evaluation_seconds
        return max(0, int(seconds / self.seconds_per_step))

    @property
    def is_time_near(self) -> bool:
        """Whether a cool-down has to begin now to end in time; not where the run ends in time by itself."""
        steps = self.steps_in_time
        return steps is not None and steps < self.left and steps <= math.ceil(TIME_SHARE * self.step)

    def cooldown_steps(self, reason: CooldownReason) -> int:
        """Return the steps of a cool-down that begins now."""
        in_time = self.steps_in_time
        limits = [self.left] if in_time is None else [self.left, in_time]
        if reason == "Stopped":
            limits.append(math.ceil(STOP_SHARE * self.step))
            if self.seconds_per_step:
                limits.append(int(STOP_SECONDS / self.seconds_per_step))
        elif reason == "StoppedEarly":
            limits.append(math.ceil(EARLY_STOPPING_SHARE * self.step))
        return min(limits)
