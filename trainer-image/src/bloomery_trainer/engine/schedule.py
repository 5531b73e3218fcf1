"""The learning rate as a function of the step: nothing of it has to be saved but the step."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from bloomery_trainer.recipe import Recipe, Stages

Schedule = Callable[[int], float]
"""The share of the full learning rate at a step, counted from 0."""


def build_schedule(recipe: Recipe, *, steps_per_epoch: int) -> Schedule:
    """Return the recipe's stages, or a linear warm-up and then a cosine down to nothing at the last step."""
    if recipe.stages:
        return lambda step: stage_rate(recipe.stages, step // steps_per_epoch) / recipe.learning_rate
    total, warmup = recipe.total_steps(steps_per_epoch), recipe.warmup_steps(steps_per_epoch)
    return lambda step: rate_factor(step, total_steps=total, warmup_steps=warmup)


def stage_rate(stages: Stages, epoch: int) -> float:
    """Return the rate of an epoch, counted from 0; past the last stage, its rate goes on."""
    return next((rate for until, rate in stages if epoch < until), stages[-1][1])


def rate_factor(step: int, *, total_steps: int, warmup_steps: int) -> float:
    """Return the share of the full learning rate: a linear rise, then half a cosine (arXiv:1608.03983) to 0."""
    warmup_steps = min(warmup_steps, total_steps - 1)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def set_learning_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Give each parameter group its share of its full rate, which is its ``initial_lr``."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
