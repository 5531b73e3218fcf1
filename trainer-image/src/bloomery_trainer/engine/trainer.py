"""The training loop: epochs of steps, an evaluation after each, the best weights kept, the state saved."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bloomery_model import Preprocess
from bloomery_trainer.config import Checkpoint
from bloomery_trainer.data.decoders import normalise
from bloomery_trainer.data.loader import TrainingBatches
from bloomery_trainer.distributed.world import World
from bloomery_trainer.engine import micro_batch
from bloomery_trainer.engine.checkpoint import Checkpoints
from bloomery_trainer.engine.cooldown import Cooldown, CooldownReason, Pace
from bloomery_trainer.engine.evaluation import Evaluation, NonFiniteOutputs
from bloomery_trainer.engine.loss import TrainingLoss
from bloomery_trainer.engine.modes import set_training_mode
from bloomery_trainer.engine.non_finite import clip_and_step
from bloomery_trainer.engine.observer import Observer, Step
from bloomery_trainer.engine.optimizer import build_optimizer
from bloomery_trainer.engine.schedule import build_schedule, set_learning_rates
from bloomery_trainer.engine.state import (
    Best,
    Divergence,
    Ending,
    TrainState,
    copy_weights,
    get_random_state,
    set_random_state,
)
from bloomery_trainer.engine.weight_average import WeightAverage
from bloomery_trainer.errors import BadConfig
from bloomery_trainer.models import precision
from bloomery_trainer.recipe import Recipe
from bloomery_trainer.shutdown import Shutdown, Terminated

_REPORT_SECONDS = 1.0
"""Losses stay on the device for so long: fetching each one would make the device wait for the host."""

_CHECKPOINT_SECONDS = 300.0


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
    """Entries of a checkpoint that identify its model: classes, preset, image size."""

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.recipe.total_steps(self.batches.steps_per_epoch)

    @property
    def warmup_steps(self) -> int:
        """Steps in which the learning rate rises."""
        return self.recipe.warmup_steps(self.batches.steps_per_epoch)


class Trainer:
    """Trains one model by a plan.

    All processes of a world run this side by side and take every decision together.
    """

    def __init__(self, model: nn.Module, plan: Plan) -> None:
        """Prepare the state before the first step; the model is on the device already."""
        recipe = plan.recipe
        own_batch = max(1, plan.batches.batch // plan.world.size)
        self.plan = plan
        self.state = TrainState(
            model,
            plan.world.wrap(model, plan.device, batch=plan.batches.batch),
            build_optimizer(model, recipe, plan.head),
            build_schedule(recipe, steps_per_epoch=plan.batches.steps_per_epoch),
            precision.grad_scaler(plan.device, side=recipe.training_size),
            micro_batch=min(own_batch, plan.micro_batch or own_batch),
            average=WeightAverage(model, recipe.ema) if recipe.ema else None,
        )
        self._clock = Clock(self.state, plan.checkpoint)

    def resume(self, saved: dict[str, Any]) -> None:
        """Continue from a checkpoint; where the number of processes has changed, with new random numbers."""
        self.state.load_state_dict(saved)
        if len(saved["random"]) == self.plan.world.size:
            set_random_state(saved["random"][self.plan.world.rank], self.plan.device)

    def evaluate_start(self) -> None:
        """Evaluate the model before the first step, so that training cannot end with a worse one."""
        model = self.state.evaluated_model
        self.state.best = Best(0, self._rank(self.plan.validate(model)), copy_weights(model))

    def train(self) -> Best:
        """Train until the last step or an earlier end, and return the weights of the best epoch.

        Raises:
            Terminated: on SIGTERM, after a checkpoint.
            BadConfig: training diverged before there was a model.
        """
        state, plan = self.state, self.plan
        self._clock = Clock(state, plan.checkpoint)
        with plan.shutdown.deferring():
            while state.ending is None:
                try:
                    stats, stopped = self.train_one_epoch()
                    plan.observer.evaluating()
                    evaluation = self._evaluate()
                except _Diverged as error:
                    self._end_diverged(error.divergence)
                    break
                self._close_epoch(stats, evaluation)
                state.ending = stopped or self._ending()
            if self._clock.is_unsaved(state):
                self._save()
        if state.best is None:
            raise ValueError("there was no epoch to evaluate")
        return state.best

    def train_one_epoch(self) -> tuple[EpochStats, Ending | None]:
        """Step over the batches that are left of the epoch, or up to the run's last step or an earlier end."""
        state, plan = self.state, self.plan
        set_training_mode(state.model)
        loss_of = TrainingLoss(
            plan.recipe, classes=plan.classes, auxiliary=plan.auxiliary, weights=plan.class_weights
        ).to(plan.device)
        stats = EpochStats(batch=plan.batches.batch)
        stopped: Ending | None = None
        if state.step >= self._last_step:
            return stats, stopped
        waiting_since = time.monotonic()
        for images, labels in plan.batches.epoch(state.epoch, first=state.position):
            stats.waited += time.monotonic() - waiting_since
            stopped = self._requested_end(stats)
            if stopped is not None:
                break
            factor = state.rate_factor
            stats.rates.append(plan.recipe.learning_rate * factor)
            set_learning_rates(state.optimizer, factor)
            images, labels = images.to(plan.device, non_blocking=True), labels.to(plan.device, non_blocking=True)
            stats.outcomes.append(self.train_step(loss_of, images, labels))
            self._clock.tick(state)
            if time.monotonic() - stats.reported > _REPORT_SECONDS:
                self._report(stats)
            if state.step == self._last_step:
                break
            waiting_since = time.monotonic()
        self._report(stats)
        if state.divergence is not None:
            raise _Diverged(state.divergence)
        return stats, stopped

    def train_step(self, loss_of: TrainingLoss, images: Tensor, labels: Tensor) -> Tensor:
        """Do one optimizer step; return its loss and whether it was taken (1 or 0), float32 [2] on the device."""
        state, plan = self.state, self.plan
        images, labels = loss_of.mix(normalise(images, plan.preprocess), labels)
        side, batch = plan.recipe.training_size, len(images)
        images = images.contiguous(memory_format=precision.memory_format(plan.device, side=side))

        def forward(part: Tensor, part_labels: Tensor) -> Tensor:
            with precision.reduced(plan.device, side=side, depthwise=plan.depthwise):
                share: Tensor = loss_of(state.network(part), part_labels, batch=batch)
            return share

        loss = self._backward(forward, images, labels)
        taken = clip_and_step(state.optimizer, state.scaler, max_norm=plan.recipe.max_grad_norm)
        if state.average is not None:
            state.average.update(state.step)
        state.step += 1
        state.position += 1
        return torch.stack([loss.to(torch.float32), taken])

    def _backward(self, forward: micro_batch.Forward, images: Tensor, labels: Tensor) -> Tensor:
        """Compute gradients of the whole batch, in smaller parts where a GPU's memory has turned out to be too small.

        In the middle of a step, only a process alone can try again: the others would wait for its gradients. So several
        of them find out before their first step how many images all of them hold.
        """
        state, plan = self.state, self.plan
        if plan.world.size > 1 and plan.device.type == "cuda" and not state.is_micro_batch_agreed:
            self._agree_on_micro_batch(forward, images, labels)
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

    def _agree_on_micro_batch(self, forward: micro_batch.Forward, images: Tensor, labels: Tensor) -> None:
        state = self.state
        state.micro_batch = micro_batch.agreed(
            state.micro_batch,
            fits=lambda size: micro_batch.fits(
                state.network, forward, micro_batch.split(images, labels, size)[0], state.scaler
            ),
            any_of=self.plan.world.any_of,
            side=self.plan.recipe.training_size,
        )
        state.is_micro_batch_agreed = True

    def _report(self, stats: EpochStats) -> None:
        """Fetch the losses from the device and report them; handle steps that were skipped."""
        if not stats.outcomes:
            return
        outcomes = torch.stack(stats.outcomes).tolist()
        first = self.state.step - len(outcomes) + 1
        steps = [
            Step(first + i, loss, rate) for i, ((loss, _), rate) in enumerate(zip(outcomes, stats.rates, strict=True))
        ]
        taken = [bool(was_taken) for _, was_taken in outcomes]
        self._handle_skipped(steps, taken)
        finite = [step for step, was_taken in zip(steps, taken, strict=True) if was_taken and math.isfinite(step.loss)]
        total, compute = stats.close_report(finite, images=len(steps) * stats.batch)
        if finite:
            self.plan.observer.steps(finite, images_per_second=total, compute_images_per_second=compute)

    def _handle_skipped(self, steps: list[Step], taken: list[bool]) -> None:
        """Note divergence; undo what a skipped step did to the batch norms' statistics."""
        state = self.state
        diverged = state.skipped.update(taken, total_steps=self.plan.total_steps)
        if diverged is not None and state.divergence is None:
            state.divergence = Divergence(steps[diverged].number, steps[diverged].learning_rate)
        if all(taken):
            state.backup.save()
        else:
            state.backup.restore_non_finite()

    def _requested_end(self, stats: EpochStats) -> Ending | None:
        """Find out what all processes together are asked for before the next step; save a checkpoint if one is due.

        A run that is asked to end first cools down, unless there is no time for it.
        """
        state, plan = self.state, self.plan
        out_of_time = self._step_seconds is not None and state.seconds >= self._step_seconds
        leads = plan.world.is_leader
        near = leads and state.cooldown is None and not plan.recipe.stages and self._pace.is_time_near
        terminating, stopping, out_of_time, near, due, diverged = plan.world.any_of(
            [
                plan.shutdown.terminating,
                plan.shutdown.stopping,
                leads and out_of_time,
                near,
                leads and self._clock.is_due(state),
                state.divergence is not None,
            ]
        )
        if diverged:
            raise _Diverged(next(item for item in plan.world.gather(state.divergence) if item is not None))
        if terminating or due:
            self._report(stats)
            self._save()
        if terminating:
            raise Terminated
        if out_of_time:
            return "TrainingTimeReached"
        if stopping:
            return self._cool_down("Stopped")
        return self._cool_down("TrainingTimeReached") if near else None

    def _cool_down(self, reason: CooldownReason) -> Ending | None:
        """Let the rate fall to nothing from now on; return the reason itself if the run has to end at once."""
        state, plan = self.state, self.plan
        if state.cooldown is not None and state.cooldown.reason == reason:
            return None
        if plan.recipe.stages:
            return reason
        steps: int = plan.world.gather(self._pace.cooldown_steps(reason))[0]
        if steps == 0:
            return reason
        state.cooldown = Cooldown(reason=reason, start=state.step, steps=steps, factor=state.rate_factor)
        plan.observer.cooling_down(state.cooldown)
        # Nobody asks for it again after a restart.
        self._save()
        return None

    @property
    def _last_step(self) -> int:
        """The number of steps at the end of the run."""
        return self.plan.total_steps if self.state.cooldown is None else self.state.cooldown.end

    @property
    def _pace(self) -> Pace:
        return Pace(
            step=self.state.step,
            left=self._last_step - self.state.step,
            seconds=self.state.seconds,
            evaluation_seconds=self.state.evaluation_seconds,
            max_seconds=self._step_seconds,
        )

    @property
    def _step_seconds(self) -> float | None:
        """The time for steps and evaluations: what fitting the head has left of all; None if it is not limited."""
        return None if self.plan.max_seconds is None else self.plan.max_seconds - self.state.head_seconds

    def _evaluate(self) -> Evaluation:
        state, plan = self.state, self.plan
        plan.world.average_buffers(state.model)
        if state.average is not None:
            plan.world.average_buffers(state.average.module)
        began = time.monotonic()
        try:
            evaluation = plan.validate(state.evaluated_model)
        except Terminated:
            # Only a process without peers breaks off; the epoch's steps are done, its evaluation is still to come.
            self._save()
            raise
        except NonFiniteOutputs as error:
            raise _Diverged(Divergence(state.step, plan.recipe.learning_rate * state.rate_factor)) from error
        state.evaluation_seconds = time.monotonic() - began
        return evaluation

    def _end_diverged(self, divergence: Divergence) -> None:
        """End with the best model so far; raise BadConfig if there is none."""
        if self.state.best is None:
            raise BadConfig(
                "Diverged",
                f"the loss was no number any more at step {divergence.step}; lower hyperparameters.learningRate "
                f"(it was {divergence.learning_rate:g})",
            )
        self.state.divergence, self.state.ending = divergence, "Diverged"

    def _close_epoch(self, stats: EpochStats, evaluation: Evaluation) -> None:
        """Record an epoch's evaluation, and keep its weights if they are the best so far."""
        state, plan = self.state, self.plan
        state.epoch += 1
        state.position = 0
        value = evaluation.metrics[plan.metric]
        state.metrics.append(value)
        state.last_metrics = dict(evaluation.metrics)
        state.patience.update(state.epoch, value, is_warmup=state.step <= plan.warmup_steps)
        rank = self._rank(evaluation)
        if state.best is None or rank > state.best.rank:
            state.best = Best(state.epoch, rank, copy_weights(state.evaluated_model))
        spent = max(time.monotonic() - stats.began, 1e-9)
        plan.observer.epoch(
            state.epoch,
            state.step,
            evaluation,
            loss=stats.loss_sum / stats.steps if stats.steps else math.nan,
            data_wait=stats.waited / spent,
            best=state.best.rank[0],
        )

    def _rank(self, evaluation: Evaluation) -> tuple[float, float]:
        """Rank an epoch by the metric, of equal ones by the loss."""
        return evaluation.metrics[self.plan.metric], -evaluation.metrics["loss"]

    def _ending(self) -> Ending | None:
        state, patience = self.state, self.plan.patience
        if state.step >= self._last_step:
            return "Trained" if state.cooldown is None else state.cooldown.reason
        if patience is not None and state.cooldown is None and state.patience.is_over(state.epoch, patience):
            return self._cool_down("StoppedEarly")
        return None

    def _save(self) -> None:
        state, plan = self.state, self.plan
        random = plan.world.gather(get_random_state(plan.device))
        if plan.world.is_leader:
            plan.checkpoints.save(state.step, {**plan.identity, **state.state_dict(), "random": random})
        self._clock.saved(state)


class _Diverged(Exception):
    """Ends the epochs."""

    def __init__(self, divergence: Divergence) -> None:
        super().__init__(f"diverged at step {divergence.step}")
        self.divergence = divergence


@dataclass
class EpochStats:
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

    def close_report(self, steps: list[Step], *, images: int) -> tuple[float, float]:
        """Add reported steps to the sums; return images per second, in all and without waiting for images."""
        now = time.monotonic()
        spent = max(now - self.reported, 1e-9)
        computing = max(spent - (self.waited - self.waited_before), 1e-9)
        self.loss_sum += sum(step.loss for step in steps)
        self.steps += len(steps)
        self.outcomes, self.rates, self.reported, self.waited_before = [], [], now, self.waited
        return images / spent, images / computing


class Clock:
    """The time spent training over all starts, and the time since the last checkpoint."""

    def __init__(self, state: TrainState, policy: Checkpoint) -> None:
        seconds = policy.every_seconds
        if seconds is None and policy.every_steps is None:
            seconds = _CHECKPOINT_SECONDS
        self._every_seconds, self._every_steps = seconds, policy.every_steps
        self._last = self._saved_at = time.monotonic()
        self._saved_step = state.step
        self._saved_ending = state.ending

    def tick(self, state: TrainState) -> None:
        """Add the time since the last tick to the state's."""
        now = time.monotonic()
        state.seconds += now - self._last
        self._last = now

    def is_due(self, state: TrainState) -> bool:
        """Return whether it is time for a checkpoint."""
        steps = state.step - self._saved_step
        if self._every_steps is not None:
            return steps >= self._every_steps
        return steps > 0 and time.monotonic() - self._saved_at >= (self._every_seconds or 0.0)

    def is_unsaved(self, state: TrainState) -> bool:
        """Return whether the state differs from the one that was saved last."""
        return (state.step, state.ending) != (self._saved_step, self._saved_ending)

    def saved(self, state: TrainState) -> None:
        """Note that a checkpoint was written just now."""
        self._saved_at, self._saved_step, self._saved_ending = time.monotonic(), state.step, state.ending
