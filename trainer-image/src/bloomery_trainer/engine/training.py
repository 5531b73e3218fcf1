"""From images and a configuration to the best weights: the model, where it starts, and the loop around it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from bloomery_model.cgroup import memory_bytes
from bloomery_trainer.data.dataset import LocalDataset
from bloomery_trainer.data.loader import training_batches
from bloomery_trainer.data.sampling import class_weights
from bloomery_trainer.data.unreadable import unreadable_note
from bloomery_trainer.engine import checkpoint, memory
from bloomery_trainer.engine.attempts import note_ended
from bloomery_trainer.engine.checkpoint import Checkpoints, Saved, weights_digest
from bloomery_trainer.engine.context import RunContext
from bloomery_trainer.engine.early_stopping import is_still_improving
from bloomery_trainer.engine.head_training import FittedHead, TrainingFeatures, fit_on_features
from bloomery_trainer.engine.observer import Observer, RunObserver
from bloomery_trainer.engine.state import Best, TrainState
from bloomery_trainer.engine.trainer import Plan, Trainer
from bloomery_trainer.errors import BadConfig
from bloomery_trainer.models import initial, precision
from bloomery_trainer.models.initial import Initial
from bloomery_trainer.models.presets import Start
from bloomery_trainer.recipe import notes as recipe_notes
from bloomery_trainer.recipe import resolve
from bloomery_trainer.tracking.logger import RunLogger

logger = logging.getLogger(__name__)

_KEPT_HEAD_SHARE = 0.5
"""From this share of classes that the initial model knows, its head is kept and learns the others as it goes."""

_HEAD_TIME_SHARE = 0.5
"""Of the time for training, what features for a new head may take: the rest is for fine-tuning."""

_GRACE_SECONDS = 240.0
"""The time for a pod that has to stop to save: its grace period is 300 s."""


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """A model with its best weights, on the device, and how it came about."""

    model: nn.Module
    reason: str
    best_epoch: int | None
    notes: tuple[str, ...]
    starts: int
    saved: Saved | None
    last_epoch: Mapping[str, float] | None = None
    """All figures of the last epoch, whose weights need not be the best ones."""
    still_improving: bool = False
    """Whether the metric was still rising when the run had gone to its end."""
    features: TrainingFeatures | None = None
    """Of the frozen body, where the head was fitted on them alone."""


def with_recipe(context: RunContext, dataset: LocalDataset, start: Initial | None) -> RunContext:
    """Return the job with its recipe, which depends on the number of images and on the start."""
    recipe = resolve(
        context.config.hyperparameters,
        context.preset,
        images=len(dataset.splits["train"]),
        start=_start_of(context, dataset, start),
        processes=context.world.size,
    )
    context = replace(context, resolved_recipe=recipe)
    context.memory.reserve(reserved_bytes(context))
    return context


def _start_of(context: RunContext, dataset: LocalDataset, start: Initial | None) -> Start:
    """Classify the head before the first step: random in part, or as good as the body."""
    if start is None:
        return "scratch"
    if context.config.hyperparameters.trainable == "Head":
        return "pretrained"
    knows_all = set(dataset.classes) <= set(start.classes)
    return "head-probe" if knows_all or _fits_new_head(dataset, start) else "pretrained"


def _known_share(dataset: LocalDataset, start: Initial) -> float:
    """Return the share of classes that the initial model's head has a row for."""
    return len(set(dataset.classes) & set(start.classes)) / len(dataset.classes)


def _fits_new_head(dataset: LocalDataset, start: Initial) -> bool:
    """Return whether a new head is fitted before fine-tuning: not if most of its rows come from the initial model."""
    return _known_share(dataset, start) < _KEPT_HEAD_SHARE


def train_model(
    context: RunContext, dataset: LocalDataset, start: Initial | None, run_logger: RunLogger
) -> TrainingResult:
    """Train, from the newest checkpoint if there is one; raise Terminated on SIGTERM, after a checkpoint."""
    model, notes = build_model(context, dataset, start)
    if context.recipe.fits_head:
        result = _fit_head_alone(context, dataset, model, run_logger, notes)
        if result is not None:
            return result
    return _train_by_steps(context, dataset, start, model, run_logger, notes)


def _train_by_steps(
    context: RunContext,
    dataset: LocalDataset,
    start: Initial | None,
    model: nn.Module,
    run_logger: RunLogger,
    notes: tuple[str, ...],
) -> TrainingResult:
    """Train with an optimizer, epoch by epoch."""
    saved: list[Saved] = []

    def on_saved(checkpoint: Saved) -> None:
        saved[:] = [checkpoint]
        context.progress.update(lastCheckpoint=checkpoint.document())

    plan = make_plan(context, dataset, run_logger, on_saved)
    trainer, probe = _prepare_trainer(context, dataset, start, model, plan)
    state = trainer.state
    notes = (*notes, *_plan_notes(context, plan, model, probe))
    context.world.require_same("where to go on", f"step {state.step}, weights {weights_digest(model)}")
    run_logger.begin(state.step)
    # A head that was fitted first has counted its own steps.
    context.progress.update(starts=context.starts, step=state.step, totalSteps=plan.total_steps)
    if state.best is not None:
        context.progress.update(metric=round(state.best.rank[0], 5))
    _log_plan(context, dataset, start, plan)
    best = _run_trainer(context, trainer)
    context.progress.update(step=state.step)
    model.load_state_dict(best.weights)
    note = unreadable_note((*plan.batches.unreadable_keys(context.world), *dataset.unreadable_keys))
    improving = state.ending == "Trained" and is_still_improving(state.metrics)
    return TrainingResult(
        model=model,
        reason=state.ending or "Trained",
        best_epoch=best.epoch,
        notes=(*notes, *_outcome_notes(state, best, improving=improving), *([note] if note else [])),
        starts=context.starts,
        saved=saved[0] if saved else None,
        last_epoch={"epoch": state.epoch, **state.last_metrics},
        still_improving=improving,
    )


def _plan_notes(context: RunContext, plan: Plan, model: nn.Module, probe: FittedHead | None) -> Iterator[str]:
    """Yield what people should know before the first step."""
    yield from recipe_notes(context.recipe, steps_per_epoch=plan.batches.steps_per_epoch)
    batch_norm = context.world.batch_norm_note(model, context.device, batch=plan.batches.batch)
    if batch_norm:
        logger.warning("%s", batch_norm)
        yield batch_norm
    if probe is not None:
        yield f"{probe.fit.sentence} Fine-tuning started from there."


def _log_plan(context: RunContext, dataset: LocalDataset, start: Initial | None, plan: Plan) -> None:
    logger.info(
        "%s %s: %d images of %d classes, %d steps of %d images on %d × %s",
        context.config.preset, "from scratch" if start is None else f"from {start.origin}",
        len(dataset.splits["train"]), len(dataset.classes), plan.total_steps, plan.batches.batch,
        context.world.size, context.device.type,
    )  # fmt: skip


def _prepare_trainer(
    context: RunContext, dataset: LocalDataset, start: Initial | None, model: nn.Module, plan: Plan
) -> tuple[Trainer, FittedHead | None]:
    """Resume from the newest checkpoint, or fit a new head on features before the first step."""
    saved = plan.checkpoints.newest(context.world)
    probe = None
    if saved is None and start is not None and context.recipe.trainable == "All" and _fits_new_head(dataset, start):
        # Random rows of a new head would spoil pretrained weights in the first steps (arXiv:2202.10054).
        limit = context.config.max_training_seconds
        probe = fit_on_features(
            context,
            dataset.splits["train"],
            model,
            plan.head,
            max_seconds=None if limit is None else _HEAD_TIME_SHARE * limit,
        )
    trainer = Trainer(model, plan)
    if saved is not None:
        _require_own_checkpoint(context, saved)
        trainer.resume(saved)
        logger.info("going on from the checkpoint at step %d", trainer.state.step)
    elif probe is not None:
        trainer.state.head_seconds = probe.seconds
        trainer.evaluate_start()
    return trainer, probe


def _fit_head_alone(
    context: RunContext, dataset: LocalDataset, model: nn.Module, run_logger: RunLogger, notes: tuple[str, ...]
) -> TrainingResult | None:
    """Fit the head on features of the frozen body; return None if they do not fit in memory."""
    run_logger.begin(0)
    context.progress.update(starts=context.starts)
    head = context.preset.head(image_size=context.preprocess.crop)
    files = dataset.splits["train"]
    fitted = fit_on_features(context, files, model, head, max_seconds=context.config.max_training_seconds)
    if fitted is None:
        return None
    fit = fitted.fit
    if fit.accuracy is not None:
        run_logger.log({"train/cross_validated_top1": fit.accuracy, "train/head_strength": fit.strength}, 0)
    note = unreadable_note(dataset.unreadable_keys)
    return TrainingResult(
        model=model,
        reason=fitted.ended or "Trained",
        best_epoch=None,
        notes=(*notes, fit.sentence, *_early_end_notes(fitted, len(files)), *([note] if note else [])),
        starts=context.starts,
        saved=None,
        features=fitted.features,
    )


def _early_end_notes(fitted: FittedHead, images: int) -> Iterator[str]:
    if fitted.ended == "TrainingTimeReached":
        yield (
            f"maxTrainingTime was over after {fitted.fit.images} of {images} training images; a longer one lets the "
            "head learn from all of them."
        )
    elif fitted.ended is not None:
        yield f"It was stopped after {fitted.fit.images} of {images} training images."


def _run_trainer(context: RunContext, trainer: Trainer) -> Best:
    """Train, and return only when the last checkpoint is written or the grace period is nearly over."""
    checkpoints = trainer.plan.checkpoints
    try:
        best = trainer.train()
    except BaseException:
        _close_checkpoints(context, checkpoints)
        raise
    if _close_checkpoints(context, checkpoints) and context.world.is_leader:
        note_ended(context.output, trainer.state.step)
    return best


def _close_checkpoints(context: RunContext, checkpoints: Checkpoints) -> bool:
    with context.shutdown.deferring():
        return checkpoints.close(seconds=_GRACE_SECONDS if context.shutdown.terminating else 0)


def _outcome_notes(state: TrainState, best: Best, *, improving: bool) -> Iterator[str]:
    if state.divergence is not None:
        yield (
            f"The training diverged at step {state.divergence.step} (learning rate "
            f"{state.divergence.learning_rate:g}); the model is that of epoch {best.epoch}, the best before. "
            "A lower hyperparameters.learningRate avoids this."
        )
    if best.epoch == 0:
        yield "Fine-tuning never exceeded the fitted head, so the model is the one that it started from."
    if improving:
        yield "The metric was still rising at the end; more epochs would help."


def _require_own_checkpoint(context: RunContext, saved: Mapping[str, Any]) -> None:
    """Raise BadConfig if the checkpoint is another job's, or of another version of the trainer."""
    if saved["uid"] != context.config.uid:
        raise BadConfig(
            "OutputTaken",
            f"{context.config.output.uri} holds checkpoints of another job: give this one a folder of its own",
        )
    if saved["format"] != checkpoint.FORMAT:
        raise BadConfig(
            "CheckpointOfAnotherVersion",
            f"the checkpoints in {context.config.output.uri} were written by another version of the trainer: go on "
            "with its image, or start a new job with initialModel.uri at the newest of them",
        )


def build_model(context: RunContext, dataset: LocalDataset, start: Initial | None) -> tuple[nn.Module, tuple[str, ...]]:
    """Return the network on the device, with the weights to start from, and what people should know of that."""
    size = context.recipe.training_size
    # With one seed on all ranks: features are computed before DDP makes the processes' networks one.
    torch.manual_seed(context.recipe.seed)
    model = context.preset.build(len(dataset.classes), image_size=size)
    if context.world.rank:
        torch.manual_seed(context.recipe.seed + context.world.rank)
    notes = list(dataset.notes)
    if start is not None:
        head = context.preset.head(image_size=size)
        notes += initial.load_pretrained(model, start, classes=dataset.classes, head=head)
        if context.recipe.trainable == "Head":
            initial.freeze_body(model, head)
    for note in notes:
        logger.info("%s", note)
    return model.to(context.device).to(memory_format=precision.memory_format(context.device, side=size)), tuple(notes)


def make_plan(
    context: RunContext, dataset: LocalDataset, run_logger: RunLogger, on_saved: Callable[[Saved], None]
) -> Plan:
    """Make the trainer's plan; ``on_saved`` is called with each checkpoint."""
    config, recipe = context.config, context.recipe
    batches = training_batches(
        dataset.splits["train"],
        context.preprocess,
        recipe,
        device=context.device,
        world=context.world,
        budget=context.memory,
        cache=context.scratch_cache,
    )
    validation = context.evaluation_loader(dataset, "validation")
    return Plan(
        recipe=recipe,
        batches=batches,
        classes=len(dataset.classes),
        preprocess=context.preprocess,
        validate=lambda model: context.evaluate(model, validation),
        metric=config.metric,
        device=context.device,
        world=context.world,
        observer=_observer(context, run_logger, batches.steps_per_epoch),
        shutdown=context.shutdown,
        checkpoints=Checkpoints(context.output, context.scratch, keep=config.checkpoint.keep, on_saved=on_saved),
        checkpoint=config.checkpoint,
        auxiliary=context.preset.auxiliary,
        depthwise=context.preset.depthwise,
        patience=config.early_stopping.patience if config.early_stopping else None,
        max_seconds=config.max_training_seconds,
        head=context.preset.head(image_size=recipe.training_size),
        class_weights=_class_weights(context, dataset),
        micro_batch=_micro_batch(context, batches.batch // context.world.size),
        identity={
            "uid": config.uid,
            "classes": list(dataset.classes),
            "preset": config.preset,
            "imageSize": recipe.image_size,
        },
    )


def _class_weights(context: RunContext, dataset: LocalDataset) -> Tensor | None:
    if context.recipe.balance != "Loss":
        return None
    return class_weights(dataset.splits["train"].labels, len(dataset.classes))


def _micro_batch(context: RunContext, batch: int) -> int:
    """Return the number of images that go through the network at a time: on a processor, as many as its memory holds.

    A GPU's memory is tried out by the steps themselves.
    """
    if context.device.type == "cuda":
        return batch
    limit = memory_bytes() / context.world.local_size
    size = memory.fitting_batch(
        context.preset, context.recipe, batch, is_reduced=_is_reduced(context), limit_bytes=limit
    )
    if size < batch:
        logger.info("%.1f GiB of memory do not hold a step of %d images: %d at a time", limit / 2**30, batch, size)
    return size


def reserved_bytes(context: RunContext) -> int:
    """Estimate the memory of the node that this process needs for training, which decoded images must leave free."""
    if context.device.type == "cuda":
        return memory.GPU_PROCESS_BYTES
    own_batch = max(1, context.recipe.batch_size // context.world.size)
    recipe, size = context.recipe, _micro_batch(context, own_batch)
    return memory.step_memory_bytes(
        context.preset, recipe.training_size, size, bf16=_is_reduced(context), optimizer=recipe.optimizer
    )


def _is_reduced(context: RunContext) -> bool:
    size = context.recipe.training_size
    return precision.training_dtype(context.device, side=size, depthwise=context.preset.depthwise) is not None


def _observer(context: RunContext, run_logger: RunLogger, epoch_steps: int) -> Observer:
    if not context.world.is_leader:
        return Observer()
    return RunObserver(
        context.progress,
        run_logger,
        metric=context.config.metric,
        total_steps=context.recipe.total_steps(epoch_steps),
        epoch_steps=epoch_steps,
    )
