"""The training itself: epochs of steps, an evaluation after each, and the best weights kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from bloomery_trainer.errors import BadConfig
from bloomery_trainer.images import Preprocess
from bloomery_trainer.train.data import Loader, normalise
from bloomery_trainer.train.evaluate import Evaluation, reduced_precision
from bloomery_trainer.train.recipe import Recipe, build_optimizer, build_schedule

_NEWS_SECONDS = 1.0
"""Losses stay on the device for so long: fetching each one would make the device wait for the host."""


@dataclass(frozen=True)
class Step:
    """One optimizer step, as it is reported."""

    number: int
    loss: float
    learning_rate: float


class Observer(Protocol):
    """Whoever wants to know how training goes; must return quickly and never raise."""

    def steps(self, steps: list[Step], *, images_per_second: float) -> None:
        """Some steps were done."""

    def evaluating(self) -> None:
        """An epoch's steps are done; its evaluation begins."""

    def epoch(self, number: int, step: int, evaluation: Evaluation, *, loss: float, data_wait: float) -> None:
        """An epoch is done, with its mean training loss and the share of time spent waiting for images."""


@dataclass
class Best:
    """The epoch with the best metric so far; of equal ones, the one with the lower loss."""

    epoch: int
    rank: tuple[float, float]
    weights: dict[str, Tensor]


@dataclass
class TrainState:
    """All that changes while training."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LambdaLR
    total_steps: int
    step: int = 0
    epoch: int = 0
    best: Best | None = None


@dataclass
class _EpochFigures:
    """Sums over one epoch, and the steps not reported yet."""

    batch: int
    losses: list[Tensor] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    loss_sum: float = 0.0
    steps: int = 0
    waited: float = 0.0
    began: float = field(default_factory=time.monotonic)
    told: float = field(default_factory=time.monotonic)

    def tell(self, observer: Observer, last_step: int) -> None:
        """Fetches the losses from the device and reports them."""
        if not self.losses:
            return
        losses = torch.stack(self.losses).tolist()
        first = last_step - len(losses) + 1
        steps = [Step(first + i, loss, rate) for i, (loss, rate) in enumerate(zip(losses, self.rates, strict=True))]
        _refuse_divergence(steps)
        now = time.monotonic()
        observer.steps(steps, images_per_second=len(steps) * self.batch / max(now - self.told, 1e-9))
        self.loss_sum += sum(losses)
        self.steps += len(losses)
        self.losses, self.rates, self.told = [], [], now


def start(model: nn.Module, recipe: Recipe, steps_per_epoch: int) -> TrainState:
    """The state before the first step."""
    total = recipe.total_steps(steps_per_epoch)
    optimizer = build_optimizer(model, recipe)
    warmup = round(recipe.warmup_epochs * steps_per_epoch)
    return TrainState(model, optimizer, build_schedule(optimizer, total_steps=total, warmup_steps=warmup), total)


def fit(
    state: TrainState,
    loader: Loader,
    validate: Callable[[nn.Module], Evaluation],
    *,
    recipe: Recipe,
    preprocess: Preprocess,
    metric: str,
    device: torch.device,
    observer: Observer,
) -> Best:
    """Trains to the last step and returns the best epoch's weights, on the CPU."""
    criterion = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    while state.step < state.total_steps:
        figures = train_one_epoch(state, loader, criterion, preprocess, device=device, observer=observer)
        observer.evaluating()
        evaluation = validate(state.model)
        state.epoch += 1
        spent = max(time.monotonic() - figures.began, 1e-9)
        observer.epoch(
            state.epoch,
            state.step,
            evaluation,
            loss=figures.loss_sum / figures.steps,
            data_wait=figures.waited / spent,
        )
        rank = (evaluation.metrics[metric], -evaluation.metrics["loss"])
        if state.best is None or rank > state.best.rank:
            state.best = Best(state.epoch, rank, _copy_of_weights(state.model))
    if state.best is None:
        raise ValueError("there was no step to train")
    return state.best


def train_one_epoch(
    state: TrainState,
    loader: Loader,
    criterion: nn.Module,
    preprocess: Preprocess,
    *,
    device: torch.device,
    observer: Observer,
) -> _EpochFigures:
    """Steps over all batches of the loader, or up to the run's last step."""
    state.model.train()
    figures = _EpochFigures(batch=loader.batch_size or 1)
    waiting_since = time.monotonic()
    for images, labels in loader:
        figures.waited += time.monotonic() - waiting_since
        figures.rates.append(float(state.schedule.get_last_lr()[0]))
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        figures.losses.append(_train_step(state, criterion, normalise(images, preprocess), labels, device))
        if time.monotonic() - figures.told > _NEWS_SECONDS:
            figures.tell(observer, state.step)
        if state.step == state.total_steps:
            break
        waiting_since = time.monotonic()
    figures.tell(observer, state.step)
    return figures


def _train_step(
    state: TrainState, criterion: nn.Module, images: Tensor, labels: Tensor, device: torch.device
) -> Tensor:
    if device.type == "cuda":
        images = images.contiguous(memory_format=torch.channels_last)
    with reduced_precision(device):
        loss: Tensor = criterion(state.model(images), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.schedule.step()
    state.step += 1
    return loss.detach()


def _copy_of_weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}


def _refuse_divergence(steps: list[Step]) -> None:
    for step in steps:
        if not math.isfinite(step.loss):
            raise BadConfig(
                "Diverged",
                f"the loss was no number any more at step {step.number}; lower hyperparameters.learningRate "
                f"(it was {step.learning_rate:g})",
            )
