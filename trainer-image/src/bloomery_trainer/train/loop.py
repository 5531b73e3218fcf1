"""The training itself: epochs of steps, an evaluation after each, the best weights kept, the state saved.

All processes of a world run this side by side and take every decision together.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.transforms import v2  # type: ignore[import-untyped]

from bloomery_trainer.config import Checkpoint
from bloomery_trainer.engine.schedule import build_schedule
from bloomery_trainer.errors import BadConfig
from bloomery_trainer.images import Preprocess
from bloomery_trainer.shutdown import Shutdown, Terminated
from bloomery_trainer.train import precision
from bloomery_trainer.train.checkpoint import Checkpoints
from bloomery_trainer.train.data import TrainingBatches, normalise
from bloomery_trainer.train.evaluate import Evaluation
from bloomery_trainer.train.initial import train_mode
from bloomery_trainer.train.recipe import Recipe, build_optimizer
from bloomery_trainer.train.world import World

Ending = Literal["Trained", "StoppedEarly", "Stopped", "TrainingTimeReached"]

_NEWS_SECONDS = 1.0
"""Losses stay on the device for so long: fetching each one would make the device wait for the host."""

_CHECKPOINT_SECONDS = 300.0


@dataclass(frozen=True)
class Step:
    """One optimizer step, as it is reported."""

    number: int
    loss: float
    learning_rate: float


class Observer(Protocol):
    """Whoever wants to know how training goes; must return quickly and never raise."""

    def steps(self, steps: list[Step], *, images_per_second: float, compute_images_per_second: float) -> None:
        """Some steps were done; the second rate leaves out the time spent waiting for images."""

    def evaluating(self) -> None:
        """An epoch's steps are done; its evaluation begins."""

    def epoch(self, number: int, step: int, evaluation: Evaluation, *, loss: float, data_wait: float) -> None:
        """An epoch is done, with its mean training loss and the share of time spent waiting for images."""


class Silent:
    """The observer of a process that leaves telling to the leader."""

    def steps(self, steps: list[Step], *, images_per_second: float, compute_images_per_second: float) -> None:
        """Says nothing."""

    def evaluating(self) -> None:
        """Says nothing."""

    def epoch(self, number: int, step: int, evaluation: Evaluation, *, loss: float, data_wait: float) -> None:
        """Says nothing."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that stays as it is while training."""

    recipe: Recipe
    batches: TrainingBatches
    classes: int
    preprocess: Preprocess
    validate: Callable[[nn.Module], Evaluation]
    metric: str
    device: torch.device
    world: World
    observer: Observer
    shutdown: Shutdown
    checkpoints: Checkpoints
    checkpoint: Checkpoint
    head: frozenset[str] = frozenset()
    """Names of the parameters that depend on the number of classes."""
    auxiliary: float | None = None
    patience: int | None = None
    max_seconds: float | None = None
    identity: dict[str, Any] = field(default_factory=dict)
    """What a checkpoint says of the model it holds: classes, preset, image size."""

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.recipe.total_steps(self.batches.steps_per_epoch)


@dataclass
class Best:
    """The epoch with the best metric so far; of equal ones, the one with the lower loss."""

    epoch: int
    rank: tuple[float, float]
    weights: dict[str, Tensor]


@dataclass
class TrainState:
    """All that changes while training; `position` counts the steps of the epoch under way."""

    model: nn.Module
    network: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LambdaLR
    average: AveragedModel | None
    step: int = 0
    epoch: int = 0
    position: int = 0
    seconds: float = 0.0
    best: Best | None = None
    ending: Ending | None = None

    @property
    def judged(self) -> nn.Module:
        """The model that is evaluated and kept: the average of the weights where there is one."""
        return self.model if self.average is None else self.average.module

    def state_dict(self) -> dict[str, Any]:
        """Everything but the random numbers, in tensors and plain values."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "epoch": self.epoch,
            "position": self.position,
            "seconds": self.seconds,
            "best": None if self.best is None else vars(self.best),
            "ending": self.ending,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to a saved state."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.step, self.epoch, self.position = state["step"], state["epoch"], state["position"]
        # A schedule is a function of the step; what it would save of itself is code.
        self.schedule.last_epoch = self.step
        self.schedule._last_lr = [group["lr"] for group in self.optimizer.param_groups]
        self.seconds, self.ending = state["seconds"], state["ending"]
        self.best = None if state["best"] is None else Best(**{**state["best"], "rank": tuple(state["best"]["rank"])})


@dataclass
class _EpochFigures:
    """Sums over one epoch, and the steps not reported yet."""

    batch: int
    losses: list[Tensor] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    loss_sum: float = 0.0
    steps: int = 0
    waited: float = 0.0
    waited_before: float = 0.0
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
        images, spent = len(steps) * self.batch, max(now - self.told, 1e-9)
        computing = max(spent - (self.waited - self.waited_before), 1e-9)
        observer.steps(steps, images_per_second=images / spent, compute_images_per_second=images / computing)
        self.loss_sum += sum(losses)
        self.steps += len(losses)
        self.losses, self.rates, self.told, self.waited_before = [], [], now, self.waited


def start(model: nn.Module, plan: Plan) -> TrainState:
    """The state before the first step; the model is on the device already."""
    optimizer = build_optimizer(model, plan.recipe, plan.head)
    factor = build_schedule(plan.recipe, steps_per_epoch=plan.batches.steps_per_epoch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    decay = plan.recipe.ema
    average = None
    if decay:
        mean = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        average = AveragedModel(model, multi_avg_fn=mean, use_buffers=True)
    network = plan.world.wrap(model, plan.device, batch=plan.batches.batch)
    return TrainState(model, network, optimizer, schedule, average)


def resume(state: TrainState, saved: dict[str, Any], plan: Plan) -> None:
    """Goes on from a checkpoint; where the number of processes is another, with new random numbers."""
    state.load_state_dict(saved)
    if len(saved["random"]) == plan.world.size:
        _set_random(saved["random"][plan.world.rank], plan.device)


def fit(state: TrainState, plan: Plan) -> Best:
    """Trains until the last step, or until somebody or something ends it, and returns the best epoch's weights.

    Raises Terminated on SIGTERM, after a checkpoint.
    """
    clock = Clock(state, plan.checkpoint)
    with plan.shutdown.deferring():
        while state.ending is None:
            figures, stopped = train_one_epoch(state, plan, clock)
            plan.observer.evaluating()
            evaluation = _evaluated(state, plan, clock)
            improved = _close_epoch(state, plan, figures, evaluation)
            state.ending = stopped or _ending(state, plan, improved=improved)
        if clock.unsaved(state):
            _save(state, plan, clock)
    if state.best is None:
        raise ValueError("there was no epoch to evaluate")
    return state.best


def train_one_epoch(state: TrainState, plan: Plan, clock: Clock) -> tuple[_EpochFigures, Ending | None]:
    """Steps over the batches that are left of the epoch, or up to the run's last step or an earlier end."""
    train_mode(state.model)
    loss_of = _Loss(plan)
    figures = _EpochFigures(batch=plan.batches.batch)
    stopped: Ending | None = None
    if state.step == plan.total_steps:
        return figures, stopped
    waiting_since = time.monotonic()
    for images, labels in plan.batches.epoch(state.epoch, first=state.position):
        figures.waited += time.monotonic() - waiting_since
        stopped = _asked_to_end(state, plan, clock)
        if stopped is not None:
            break
        figures.rates.append(float(state.schedule.get_last_lr()[0]))
        images, labels = images.to(plan.device, non_blocking=True), labels.to(plan.device, non_blocking=True)
        figures.losses.append(_train_step(state, plan, loss_of, images, labels))
        clock.tick(state)
        if time.monotonic() - figures.told > _NEWS_SECONDS:
            figures.tell(plan.observer, state.step)
        if state.step == plan.total_steps:
            break
        waiting_since = time.monotonic()
    figures.tell(plan.observer, state.step)
    return figures, stopped


class Clock:
    """Time spent training over all starts, and when the last checkpoint was."""

    def __init__(self, state: TrainState, policy: Checkpoint) -> None:
        seconds = policy.every_seconds
        if seconds is None and policy.every_steps is None:
            seconds = _CHECKPOINT_SECONDS
        self._every_seconds, self._every_steps = seconds, policy.every_steps
        self._last = self._saved_at = time.monotonic()
        self._saved_step = state.step
        self._saved_ending = state.ending

    def tick(self, state: TrainState) -> None:
        """Adds the time since the last tick to the state's."""
        now = time.monotonic()
        state.seconds += now - self._last
        self._last = now

    def due(self, state: TrainState) -> bool:
        """Whether it is time for a checkpoint."""
        steps = state.step - self._saved_step
        if self._every_steps is not None:
            return steps >= self._every_steps
        return steps > 0 and time.monotonic() - self._saved_at >= (self._every_seconds or 0.0)

    def unsaved(self, state: TrainState) -> bool:
        """Whether the state is another than the one that was saved last."""
        return (state.step, state.ending) != (self._saved_step, self._saved_ending)

    def saved(self, state: TrainState) -> None:
        """A checkpoint was written just now."""
        self._saved_at, self._saved_step, self._saved_ending = time.monotonic(), state.step, state.ending


class _Loss:
    """Cross-entropy over the network's head and, in their share, its auxiliary heads; mixes images where asked to."""

    def __init__(self, plan: Plan) -> None:
        self._criterion = nn.CrossEntropyLoss(label_smoothing=plan.recipe.label_smoothing)
        self._auxiliary = plan.auxiliary or 0.0
        self._mix = v2.MixUp(alpha=plan.recipe.mixup, num_classes=plan.classes) if plan.recipe.mixup else None

    def mixed(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Images blended pairwise with their labels, or as they are."""
        if self._mix is None:
            return images, labels
        images, labels = self._mix(images, labels)
        return images, labels

    def __call__(self, outputs: Tensor | tuple[Tensor, ...], labels: Tensor) -> Tensor:
        """The loss of a batch."""
        if isinstance(outputs, Tensor):
            loss: Tensor = self._criterion(outputs, labels)
            return loss
        main, *others = (self._criterion(output, labels) for output in outputs if output is not None)
        total: Tensor = main + self._auxiliary * sum(others)
        return total


def _train_step(state: TrainState, plan: Plan, loss_of: _Loss, images: Tensor, labels: Tensor) -> Tensor:
    images, labels = loss_of.mixed(normalise(images, plan.preprocess), labels)
    side = plan.recipe.training_size
    images = images.contiguous(memory_format=precision.memory_format(plan.device, side=side))
    with precision.reduced(plan.device, side=side):
        loss = loss_of(state.network(images), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.schedule.step()
    if state.average is not None:
        state.average.update_parameters(state.model)
    state.step += 1
    state.position += 1
    return loss.detach()


def _asked_to_end(state: TrainState, plan: Plan, clock: Clock) -> Ending | None:
    """What all processes together are asked for before the next step; saves a checkpoint where one is due."""
    out_of_time = plan.max_seconds is not None and state.seconds >= plan.max_seconds
    leads = plan.world.is_leader
    terminating, stopping, out_of_time, due = plan.world.any_of(
        [plan.shutdown.terminating, plan.shutdown.stopping, leads and out_of_time, leads and clock.due(state)]
    )
    if terminating or due:
        _save(state, plan, clock)
    if terminating:
        raise Terminated
    if stopping:
        return "Stopped"
    return "TrainingTimeReached" if out_of_time else None


def _evaluated(state: TrainState, plan: Plan, clock: Clock) -> Evaluation:
    plan.world.average_buffers(state.model)
    if state.judged is not state.model:
        plan.world.average_buffers(state.judged)
    try:
        return plan.validate(state.judged)
    except Terminated:
        # Only a process without peers breaks off; the epoch's steps are done, its evaluation is still to come.
        _save(state, plan, clock)
        raise


def _close_epoch(state: TrainState, plan: Plan, figures: _EpochFigures, evaluation: Evaluation) -> bool:
    """Takes in an epoch's evaluation; returns whether it is the best so far."""
    state.epoch += 1
    state.position = 0
    spent = max(time.monotonic() - figures.began, 1e-9)
    loss = figures.loss_sum / figures.steps if figures.steps else math.nan
    plan.observer.epoch(state.epoch, state.step, evaluation, loss=loss, data_wait=figures.waited / spent)
    rank = (evaluation.metrics[plan.metric], -evaluation.metrics["loss"])
    improved = state.best is None or rank > state.best.rank
    if improved:
        state.best = Best(state.epoch, rank, _copy_of_weights(state.judged))
    return improved


def _ending(state: TrainState, plan: Plan, *, improved: bool) -> Ending | None:
    if state.step >= plan.total_steps:
        return "Trained"
    best = state.epoch if improved or state.best is None else state.best.epoch
    if plan.patience is not None and state.epoch - best >= plan.patience:
        return "StoppedEarly"
    return None


def _save(state: TrainState, plan: Plan, clock: Clock) -> None:
    random = plan.world.gather(_random(plan.device))
    if plan.world.is_leader:
        plan.checkpoints.save(state.step, {**plan.identity, **state.state_dict(), "random": random})
    clock.saved(state)


def _random(device: torch.device) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _set_random(states: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


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
