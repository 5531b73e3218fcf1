"""How the weights are changed: every hyperparameter with its value, the optimizer, the schedule."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from pydantic.alias_generators import to_camel
from torch import nn

from bloomery_trainer.config import Hyperparameters
from bloomery_trainer.train.presets import REFERENCE_BATCH, Augmentation, OptimizerName, Preset


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All hyperparameters of a run, none left open but one of `epochs` and `max_steps`."""

    epochs: int | None
    max_steps: int | None
    batch_size: int
    learning_rate: float
    optimizer: OptimizerName
    momentum: float
    weight_decay: float
    warmup_epochs: float
    label_smoothing: float
    image_size: int
    augmentation: Augmentation
    horizontal_flip: bool
    seed: int

    def total_steps(self, steps_per_epoch: int) -> int:
        """Optimizer steps of the whole run."""
        return self.max_steps if self.max_steps is not None else (self.epochs or 0) * steps_per_epoch

    def parameters(self) -> dict[str, Any]:
        """For the record: the names of the API, what does not apply left out."""
        return {to_camel(key): value for key, value in asdict(self).items() if value is not None}


def resolve(given: Hyperparameters, preset: Preset) -> Recipe:
    """Fills what is not given from the preset; its learning rates grow with the batch size."""
    optimizer = given.optimizer or preset.optimizer
    defaults = preset.optimizers[optimizer]
    ratio = given.batch_size / REFERENCE_BATCH
    # Gradients average over the batch: SGD's step may grow with its size, Adam's only with the root of it.
    scaled = defaults.learning_rate * (ratio if optimizer == "sgd" else math.sqrt(ratio))
    return Recipe(
        epochs=given.epochs if given.max_steps is not None else given.epochs or preset.epochs,
        max_steps=given.max_steps,
        batch_size=given.batch_size,
        learning_rate=_or(given.learning_rate, scaled),
        optimizer=optimizer,
        momentum=_or(given.momentum, defaults.momentum),
        weight_decay=_or(given.weight_decay, defaults.weight_decay),
        warmup_epochs=_or(given.warmup_epochs, preset.warmup_epochs),
        label_smoothing=given.label_smoothing,
        image_size=given.image_size or preset.image_size,
        augmentation=given.augmentation or preset.augmentation,
        horizontal_flip=given.horizontal_flip,
        seed=given.seed,
    )


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum or AdamW, one fused kernel a step; norms and biases do not decay."""
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    free = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": free, "weight_decay": 0.0}]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(recipe.momentum, 0.999), fused=True)
    nesterov = recipe.momentum > 0
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=nesterov, fused=True)


def build_schedule(
    optimizer: torch.optim.Optimizer, *, total_steps: int, warmup_steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up, then a cosine down to nothing at the last step."""
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: rate_factor(step, total_steps=total_steps, warmup_steps=warmup_steps)
    )


def rate_factor(step: int, *, total_steps: int, warmup_steps: int) -> float:
    """The share of the full learning rate at a step, counted from 0."""
    warmup_steps = min(warmup_steps, total_steps - 1)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def _or(given: float | None, default: float) -> float:
    return default if given is None else given
