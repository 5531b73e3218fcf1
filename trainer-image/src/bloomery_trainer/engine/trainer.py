"""The training itself: epochs of steps, an evaluation after each, the best weights kept, the state saved.

All processes of a world run this side by side and take every decision together.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from bloomery_model import Preprocess
from bloomery_trainer.config import Checkpoint
from bloomery_trainer.data.loader import TrainingBatches, normalise
from bloomery_trainer.distributed.world import World
from bloomery_trainer.engine import micro_batch
from bloomery_trainer.engine.checkpoint import Checkpoints
from bloomery_trainer.engine.cooldown import Cooldown, CooldownReason, Pace
from bloomery_trainer.engine.early_stopping import Patience
from bloomery_trainer.engine.evaluation import Evaluation, NonFiniteOutputs
from bloomery_trainer.engine.loss import TrainingLoss
from bloomery_trainer.engine.modes import set_training_mode
from bloomery_trainer.engine.non_finite import BufferBackup, SkippedSteps, clip_and_step
from bloomery_trainer.engine.optimizer import build_optimizer
from bloomery_trainer.engine.schedule import Schedule, build_schedule, set_learning_rates
from bloomery_trainer.engine.weight_average import WeightAverage
from bloomery_trainer.errors import BadConfig
from bloomery_trainer.models import precision
from bloomery_trainer.recipe import Recipe
from bloomery_trainer.shutdown import Shutdown, Terminated

Ending = Literal["Trained", "StoppedEarly", "Stopped", "TrainingTimeReached", "Diverged"]

_REPORT_SECONDS = 1.0
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

    def epoch(
        self, number: int, step: int, evaluation: Evaluation, *, loss: float, data_wait: float, best: float
    ) -> None:
        """An epoch is done, with its mean training loss, the share of time spent waiting for images, and the best
        value of the job's metric so far.
        """

    def cooling_down(self, cooldown: Cooldown) -> None:
        """The run will end before its last step: the learning rate now falls to nothing."""


class Silent:
    """The observer of a process that leaves telling to the leader."""

    def steps(self, steps: list[Step], *, images_per_second: float, compute_images_per_second: float) -> None:
        """Says nothing."""

    def evaluating(self) -> None:
        """Says nothing."""

    def epoch(
        self, number: int, step: int, evaluation: Evaluation, *, loss: float, data_wait: float, best: float
    ) -> None:
        """Says nothing."""

    def cooling_down(self, cooldown: Cooldown) -> None:
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
    class_weights: Tensor | None = None
    """Weights of the classes in the loss, float32 [classes], where it is to balance them."""
    micro_batch: int | None = None
    """Images of this process that go through the network at a time; None for all of its batch."""
    auxiliary: float | None = None
    depthwise: bool = False
    patience: int | None = None
    max_seconds: float | None = None
    identity: dict[str, Any] = field(default_factory=dict)
    """What a checkpoint says of the model it holds: classes, preset, image size."""

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.recipe.total_steps(self.batches.steps_per_epoch)

    @property
    def warmup_steps(self) -> int:
        """Steps in which the learning rate rises."""
        return self.recipe.warmup_steps(self.batches.steps_per_epoch)


@dataclass
class Best:
    """The epoch with the best metric so far; of equal ones, the one with the lower loss."""

    epoch: int
    rank: tuple[float, float]
    weights: dict[str, Tensor]


@dataclass(frozen=True)
class Divergence:
    """Where the loss or the weights were no numbers any more."""

    step: int
    learning_rate: float


class _Diverged(Exception):
    """Ends the epochs."""

    def __init__(self, divergence: Divergence) -> None:
        super().__init__(f"diverged at step {divergence.step}")
        self.divergence = divergence


@dataclass
class TrainState:
    """All that changes while training; `position` counts the steps of the epoch under way."""

    model: nn.Module
    network: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler
    micro_batch: int
    average: WeightAverage | None = None
    step: int = 0
    epoch: int = 0
    position: int = 0
    seconds: float = 0.0
    evaluation_seconds: float = 0.0
    best: Best | None = None
    metrics: list[float] = field(default_factory=list)
    """The job's metric after each epoch."""
    last_metrics: dict[str, float] = field(default_factory=dict)
    """All figures of the last epoch."""
    patience: Patience = field(default_factory=Patience)
    skipped: SkippedSteps = field(default_factory=SkippedSteps)
    cooldown: Cooldown | None = None
    divergence: Divergence | None = None
    ending: Ending | None = None
    is_micro_batch_tried: bool = False
    """Whether several processes have agreed on `micro_batch` since they were started."""
    backup: BufferBackup = field(init=False)

    def __post_init__(self) -> None:
        """Remember the batch norms' statistics."""
        self.backup = BufferBackup([self.model] if self.average is None else [self.model, self.average.module])

    @property
    def judged(self) -> nn.Module:
        """The model that is evaluated and kept: the average of the weights where there is one."""
        return self.model if self.average is None else self.average.module

    @property
    def rate_factor(self) -> float:
        """The share of the full learning rates that the next step has."""
        return self.schedule(self.step) if self.cooldown is None else self.cooldown.factor_at(self.step)

    def last_step(self, plan: Plan) -> int:
        """How many steps will have been done at the end."""
        return plan.total_steps if self.cooldown is None else self.cooldown.end

    def state_dict(self) -> dict[str, Any]:
        """Everything but the random numbers, in tensors and plain values."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "scaler": self.scaler.state_dict(),
            "micro_batch": self.micro_batch,
            "epoch": self.epoch,
            "position": self.position,
            "seconds": self.seconds,
            "evaluation_seconds": self.evaluation_seconds,
            "best": None if self.best is None else vars(self.best),
            "metrics": list(self.metrics),
            "last_metrics": dict(self.last_metrics),
            "patience": asdict(self.patience),
            "skipped": asdict(self.skipped),
            "cooldown": None if self.cooldown is None else asdict(self.cooldown),
            "divergence": None if self.divergence is None else asdict(self.divergence),
            "ending": self.ending,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to a saved state."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.scaler.load_state_dict(state["scaler"])
        self.step, self.epoch, self.position = state["step"], state["epoch"], state["position"]
        self.seconds, self.evaluation_seconds = state["seconds"], state["evaluation_seconds"]
        self.metrics, self.last_metrics = list(state["metrics"]), dict(state["last_metrics"])
        self.micro_batch, self.ending = state["micro_batch"], state["ending"]
        self.patience, self.skipped = Patience(**state["patience"]), SkippedSteps(**state["skipped"])
        self.cooldown = None if state["cooldown"] is None else Cooldown(**state["cooldown"])
        self.divergence = None if state["divergence"] is None else Divergence(**state["divergence"])
        self.best = None if state["best"] is None else Best(**{**state["best"], "rank": tuple(state["best"]["rank"])})
        self.backup.save()


@dataclass
class _EpochFigures:
    """Sums over one epoch, and the steps not reported yet."""

    batch: int
    outcomes: list[Tensor] = field(default_factory=list)
    """For each step, its loss and whether it was taken (1 or 0), float32 [2] on the device."""
    rates: list[float] = field(default_factory=list)
    loss_sum: float = 0.0
    steps: int = 0
    waited: float = 0.0
    waited_before: float = 0.0
    began: float = field(default_factory=time.monotonic)
    reported: float = field(default_factory=time.monotonic)

    def report(self, state: TrainState, plan: Plan) -> None:
        """Fetch the losses from the device and report them; look after steps that were no numbers."""
        if not self.outcomes:
            return
        outcomes = torch.stack(self.outcomes).tolist()
        first = state.step - len(outcomes) + 1
        every = [
            Step(first + i, loss, rate) for i, ((loss, _), rate) in enumerate(zip(outcomes, self.rates, strict=True))
        ]
        taken = [bool(was_taken) and math.isfinite(loss) for loss, was_taken in outcomes]
        _look_after_skipped(state, plan, every, [bool(was_taken) for _, was_taken in outcomes])
        steps = [step for step, was_taken in zip(every, taken, strict=True) if was_taken]
        now = time.monotonic()
        images, spent = len(every) * self.batch, max(now - self.reported, 1e-9)
        computing = max(spent - (self.waited - self.waited_before), 1e-9)
        if steps:
            plan.observer.steps(steps, images_per_second=images / spent, compute_images_per_second=images / computing)
        self.loss_sum += sum(step.loss for step in steps)
        self.steps += len(steps)
        self.outcomes, self.rates, self.reported, self.waited_before = [], [], now, self.waited


def _look_after_skipped(state: TrainState, plan: Plan, steps: list[Step], taken: list[bool]) -> None:
    """Note divergence; undo what a skipped step did to the batch norms' statistics."""
    diverged = state.skipped.update(taken, total_steps=plan.total_steps)
    if diverged is not None and state.divergence is None:
        state.divergence = Divergence(steps[diverged].number, steps[diverged].learning_rate)
    if all(taken):
        state.backup.save()
    else:
        state.backup.restore_non_finite()


def start(model: nn.Module, plan: Plan) -> TrainState:
    """The state before the first step; the model is on the device already."""
    recipe = plan.recipe
    own_batch = max(1, plan.batches.batch // plan.world.size)
    return TrainState(
        model,
        plan.world.wrap(model, plan.device, batch=plan.batches.batch),
        build_optimizer(model, recipe, plan.head),
        build_schedule(recipe, steps_per_epoch=plan.batches.steps_per_epoch),
        precision.grad_scaler(plan.device, side=recipe.training_size),
        micro_batch=min(own_batch, plan.micro_batch or own_batch),
        average=WeightAverage(model, recipe.ema) if recipe.ema else None,
    )


def resume(state: TrainState, saved: dict[str, Any], plan: Plan) -> None:
    """Goes on from a checkpoint; where the number of processes is another, with new random numbers."""
    state.load_state_dict(saved)
    if len(saved["random"]) == plan.world.size:
        _set_random(saved["random"][plan.world.rank], plan.device)


def judge_start(state: TrainState, plan: Plan) -> None:
    """Evaluates the model before the first step, so that training cannot end with a worse one than it began with."""
    state.best = Best(0, _rank(plan.validate(state.judged), plan), _copy_of_weights(state.judged))


def fit(state: TrainState, plan: Plan) -> Best:
    """Trains until the last step, or until somebody or something ends it, and returns the best epoch's weights.

    Raises Terminated on SIGTERM, after a checkpoint; BadConfig where training diverges before there is a model.
    """
    clock = Clock(state, plan.checkpoint)
    with plan.shutdown.deferring():
        while state.ending is None:
            try:
                figures, stopped = train_one_epoch(state, plan, clock)
                plan.observer.evaluating()
                evaluation = _evaluated(state, plan, clock)
            except _Diverged as error:
                _end_diverged(state, error.divergence)
                break
            _close_epoch(state, plan, figures, evaluation)
            state.ending = stopped or _ending(state, plan, clock)
        if clock.unsaved(state):
            _save(state, plan, clock)
    if state.best is None:
        raise ValueError("there was no epoch to evaluate")
    return state.best


def train_one_epoch(state: TrainState, plan: Plan, clock: Clock) -> tuple[_EpochFigures, Ending | None]:
    """Steps over the batches that are left of the epoch, or up to the run's last step or an earlier end."""
    set_training_mode(state.model)
    loss_of = TrainingLoss(plan.recipe, classes=plan.classes, auxiliary=plan.auxiliary, weights=plan.class_weights).to(
        plan.device
    )
    figures = _EpochFigures(batch=plan.batches.batch)
    stopped: Ending | None = None
    if state.step >= state.last_step(plan):
        return figures, stopped
    waiting_since = time.monotonic()
    for images, labels in plan.batches.epoch(state.epoch, first=state.position):
        figures.waited += time.monotonic() - waiting_since
        stopped = _asked_to_end(state, plan, clock, figures)
        if stopped is not None:
            break
        factor = state.rate_factor
        figures.rates.append(plan.recipe.learning_rate * factor)
        set_learning_rates(state.optimizer, factor)
        images, labels = images.to(plan.device, non_blocking=True), labels.to(plan.device, non_blocking=True)
        figures.outcomes.append(_train_step(state, plan, loss_of, images, labels))
        clock.tick(state)
        if time.monotonic() - figures.reported > _REPORT_SECONDS:
            figures.report(state, plan)
        if state.step == state.last_step(plan):
            break
        waiting_since = time.monotonic()
    figures.report(state, plan)
    if state.divergence is not None:
        raise _Diverged(state.divergence)
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


def _train_step(state: TrainState, plan: Plan, loss_of: TrainingLoss, images: Tensor, labels: Tensor) -> Tensor:
    """One optimizer step; returns its loss and whether it was taken (1 or 0), float32 [2] on the device."""
    images, labels = loss_of.mix(normalise(images, plan.preprocess), labels)
    side, batch = plan.recipe.training_size, len(images)
    images = images.contiguous(memory_format=precision.memory_format(plan.device, side=side))

    def forward(some: Tensor, their_labels: Tensor) -> Tensor:
        with precision.reduced(plan.device, side=side, depthwise=plan.depthwise):
            share: Tensor = loss_of(state.network(some), their_labels, batch=batch)
        return share

    loss = _backward(state, plan, forward, images, labels)
    taken = clip_and_step(state.optimizer, state.scaler, max_norm=plan.recipe.max_grad_norm)
    if state.average is not None:
        state.average.update(state.step)
    state.step += 1
    state.position += 1
    return torch.stack([loss.to(torch.float32), taken])


def _backward(state: TrainState, plan: Plan, forward: micro_batch.Forward, images: Tensor, labels: Tensor) -> Tensor:
    """Gradients of the whole batch, in smaller parts where a GPU's memory has turned out to be too small.

    In the middle of a step, only a process alone can try again: the others would wait for its gradients. So several
    of them try before their first step what all of them hold.
    """
    if plan.world.size > 1 and plan.device.type == "cuda" and not state.is_micro_batch_tried:
        state.micro_batch = micro_batch.agreed(
            state.micro_batch,
            fits=lambda size: micro_batch.fits(
                state.network, forward, micro_batch.split(images, labels, size)[0], state.scaler
            ),
            any_of=plan.world.any_of,
            side=plan.recipe.training_size,
        )
        state.is_micro_batch_tried = True
    while True:
        try:
            parts = micro_batch.split(images, labels, state.micro_batch)
            return micro_batch.accumulate(state.network, forward, parts, state.scaler)
        except torch.OutOfMemoryError:
            if plan.world.size > 1:
                raise
            state.micro_batch = micro_batch.halved(state.micro_batch, side=plan.recipe.training_size)
        state.optimizer.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()


def _asked_to_end(state: TrainState, plan: Plan, clock: Clock, figures: _EpochFigures) -> Ending | None:
    """What all processes together are asked for before the next step; saves a checkpoint where one is due.

    A run that is asked to end first cools down, unless there is no time for it.
    """
    out_of_time = plan.max_seconds is not None and state.seconds >= plan.max_seconds
    diverged = state.divergence is not None
    leads = plan.world.is_leader
    near = leads and state.cooldown is None and not plan.recipe.stages and _pace(state, plan).is_time_near
    terminating, stopping, out_of_time, near, due, diverged = plan.world.any_of(
        [
            plan.shutdown.terminating,
            plan.shutdown.stopping,
            leads and out_of_time,
            near,
            leads and clock.due(state),
            diverged,
        ]
    )
    if diverged:
        raise _Diverged(next(item for item in plan.world.gather(state.divergence) if item is not None))
    if terminating or due:
        figures.report(state, plan)
        _save(state, plan, clock)
    if terminating:
        raise Terminated
    if out_of_time:
        return "TrainingTimeReached"
    if stopping:
        return _cool_down(state, plan, clock, "Stopped")
    return _cool_down(state, plan, clock, "TrainingTimeReached") if near else None


def _cool_down(state: TrainState, plan: Plan, clock: Clock, reason: CooldownReason) -> Ending | None:
    """Let the rate fall to nothing from now on; the reason itself where the run has to end at once."""
    if state.cooldown is not None and state.cooldown.reason == reason:
        return None
    if plan.recipe.stages:
        return reason
    steps: int = plan.world.gather(_pace(state, plan).cooldown_steps(reason))[0]
    if steps == 0:
        return reason
    state.cooldown = Cooldown(reason=reason, start=state.step, steps=steps, factor=state.rate_factor)
    plan.observer.cooling_down(state.cooldown)
    # Whoever asked for it will not ask again after a restart.
    _save(state, plan, clock)
    return None


def _pace(state: TrainState, plan: Plan) -> Pace:
    return Pace(
        step=state.step,
        left=state.last_step(plan) - state.step,
        seconds=state.seconds,
        evaluation_seconds=state.evaluation_seconds,
        max_seconds=plan.max_seconds,
    )


def _evaluated(state: TrainState, plan: Plan, clock: Clock) -> Evaluation:
    plan.world.average_buffers(state.model)
    if state.average is not None:
        plan.world.average_buffers(state.average.module)
    began = time.monotonic()
    try:
        evaluation = plan.validate(state.judged)
    except Terminated:
        # Only a process without peers breaks off; the epoch's steps are done, its evaluation is still to come.
        _save(state, plan, clock)
        raise
    except NonFiniteOutputs as error:
        raise _Diverged(Divergence(state.step, plan.recipe.learning_rate * state.rate_factor)) from error
    state.evaluation_seconds = time.monotonic() - began
    return evaluation


def _end_diverged(state: TrainState, divergence: Divergence) -> None:
    """Ends with the best model so far; raises BadConfig where there is none."""
    if state.best is None:
        raise BadConfig(
            "Diverged",
            f"the loss was no number any more at step {divergence.step}; lower hyperparameters.learningRate "
            f"(it was {divergence.learning_rate:g})",
        )
    state.divergence, state.ending = divergence, "Diverged"


def _close_epoch(state: TrainState, plan: Plan, figures: _EpochFigures, evaluation: Evaluation) -> None:
    """Takes in an epoch's evaluation."""
    state.epoch += 1
    state.position = 0
    value = evaluation.metrics[plan.metric]
    state.metrics.append(value)
    state.last_metrics = dict(evaluation.metrics)
    state.patience.update(state.epoch, value, is_warmup=state.step <= plan.warmup_steps)
    rank = _rank(evaluation, plan)
    if state.best is None or rank > state.best.rank:
        state.best = Best(state.epoch, rank, _copy_of_weights(state.judged))
    spent = max(time.monotonic() - figures.began, 1e-9)
    plan.observer.epoch(
        state.epoch,
        state.step,
        evaluation,
        loss=figures.loss_sum / figures.steps if figures.steps else math.nan,
        data_wait=figures.waited / spent,
        best=state.best.rank[0],
    )


def _rank(evaluation: Evaluation, plan: Plan) -> tuple[float, float]:
    """How good an epoch is: by the metric, of equal ones by the loss."""
    return evaluation.metrics[plan.metric], -evaluation.metrics["loss"]


def _ending(state: TrainState, plan: Plan, clock: Clock) -> Ending | None:
    if state.step >= state.last_step(plan):
        return "Trained" if state.cooldown is None else state.cooldown.reason
    if plan.patience is not None and state.cooldown is None and state.patience.is_over(state.epoch, plan.patience):
        return _cool_down(state, plan, clock, "StoppedEarly")
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
