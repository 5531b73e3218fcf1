"""How the weights are changed: every hyperparameter with its value, the optimizer, the schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from pydantic.alias_generators import to_camel
from torch import nn

from bloomery_trainer.config import Hyperparameters, parse_schedule
from bloomery_trainer.errors import BadConfig
from bloomery_trainer.train.presets import REFERENCE_BATCH, Augmentation, OptimizerName, Preset

Stages = tuple[tuple[int, float], ...]

_LARGE = 128
_BATCH_SIZE = 32


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All hyperparameters of a run, none left open but one of `epochs` and `max_steps`.

    `stages` are the pairs (until epoch, rate) of a given schedule; empty, the rate follows a cosine.
    """

    epochs: int | None
    max_steps: int | None
    batch_size: int
    learning_rate: float
    stages: Stages
    optimizer: OptimizerName
    momentum: float
    weight_decay: float
    warmup_epochs: float
    label_smoothing: float
    image_size: int
    training_size: int
    augmentation: Augmentation
    horizontal_flip: bool
    mixup: float
    ema: float
    balance: Literal["None", "Loss", "Sampling"]
    trainable: Literal["All", "Head"]
    seed: int

    def total_steps(self, steps_per_epoch: int) -> int:
        """Optimizer steps of the whole run."""
        return self.max_steps if self.max_steps is not None else (self.epochs or 0) * steps_per_epoch

    def parameters(self) -> dict[str, Any]:
        """For the record: the names of the API, what does not apply left out."""
        values = asdict(self)
        stages = values.pop("stages")
        if stages:
            values["learning_rate_schedule"] = ",".join(f"{until}:{rate:g}" for until, rate in stages)
        return {to_camel(key): value for key, value in values.items() if value is not None}


def resolve(given: Hyperparameters, preset: Preset, *, pretrained: bool = False) -> Recipe:
    """Fills what is not given from the preset; its learning rates grow with the batch size.

    Weights that were trained before are changed with smaller steps. Raises BadConfig where the preset can not be
    built for the image size.
    """
    optimizer = given.optimizer or preset.optimizer
    defaults = preset.optimizers[optimizer]
    batch_size = given.batch_size or _BATCH_SIZE
    ratio = batch_size / REFERENCE_BATCH
    # Gradients average over the batch: SGD's step may grow with its size, Adam's only with the root of it.
    scaled = defaults.learning_rate * (ratio if optimizer == "sgd" else math.sqrt(ratio))
    if pretrained and given.trainable == "All":
        scaled *= preset.fine_tuning
    stages = parse_schedule(given.learning_rate_schedule) if given.learning_rate_schedule else ()
    epochs = stages[-1][0] if stages else given.epochs or preset.epochs
    image_size = given.image_size or preset.image_size
    if image_size < preset.smallest:
        raise BadConfig(
            "InvalidConfig", f"hyperparameters.imageSize is {image_size}; this preset needs at least {preset.smallest}"
        )
    augmentation = given.augmentation or preset.augmentation
    return Recipe(
        epochs=None if given.max_steps is not None else epochs,
        max_steps=given.max_steps,
        batch_size=batch_size,
        learning_rate=max(rate for _, rate in stages) if stages else _or(given.learning_rate, scaled),
        stages=stages,
        optimizer=optimizer,
        momentum=_or(given.momentum, defaults.momentum),
        weight_decay=_or(given.weight_decay, defaults.weight_decay),
        warmup_epochs=0 if stages else _or(given.warmup_epochs, preset.warmup_epochs),
        label_smoothing=_or(given.label_smoothing, 0.1),
        image_size=image_size,
        training_size=_training_size(image_size, augmentation, preset),
        augmentation=augmentation,
        horizontal_flip=given.horizontal_flip,
        mixup=given.mixup,
        ema=_or(given.ema, 0.0),
        balance=given.balance,
        trainable=given.trainable,
        seed=given.seed,
    )


def _training_size(image_size: int, augmentation: Augmentation, preset: Preset) -> int:
    """The side to train at under strong cropping: 176 for 224, as crops show things larger than they are.

    Smaller is faster, and better too: https://arxiv.org/abs/1906.06423.
    """
    if augmentation != "TrivialAugment" or image_size < _LARGE:
        return image_size
    smaller = round(image_size * 176 / 224 / 16) * 16
    # Auxiliary heads that the full size has must not be lost by it.
    return image_size if preset.has_auxiliary(image_size) and not preset.has_auxiliary(smaller) else smaller


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
    optimizer: torch.optim.Optimizer, recipe: Recipe, *, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """The recipe's stages, or a linear warm-up and then a cosine down to nothing at the last step."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, _factor(recipe, steps_per_epoch))


def _factor(recipe: Recipe, steps_per_epoch: int) -> Callable[[int], float]:
    total = recipe.total_steps(steps_per_epoch)
    warmup = round(recipe.warmup_epochs * steps_per_epoch)
    if recipe.stages:
        return lambda step: stage_rate(recipe.stages, step // steps_per_epoch) / recipe.learning_rate
    return lambda step: rate_factor(step, total_steps=total, warmup_steps=warmup)


def stage_rate(stages: Stages, epoch: int) -> float:
    """The rate of an epoch, counted from 0; past the last stage, its rate goes on."""
    return next((rate for until, rate in stages if epoch < until), stages[-1][1])


def rate_factor(step: int, *, total_steps: int, warmup_steps: int) -> float:
    """The share of the full learning rate at a step, counted from 0."""
    warmup_steps = min(warmup_steps, total_steps - 1)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def _or(given: float | None, default: float) -> float:
    return default if given is None else given
