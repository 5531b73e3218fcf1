"""From images and a configuration to the best weights: the model, where it starts, and the loop around it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from bloomery_trainer.data.dataset import LocalDataset
from bloomery_trainer.data.loader import training_batches
from bloomery_trainer.data.sampling import class_weights
from bloomery_trainer.data.unreadable import unreadable_note
from bloomery_trainer.engine import checkpoint, memory, trainer
from bloomery_trainer.engine.attempts import note_ended
from bloomery_trainer.engine.checkpoint import Checkpoints, Saved, weights_digest
from bloomery_trainer.engine.context import Job
from bloomery_trainer.engine.early_stopping import is_still_improving
from bloomery_trainer.engine.head import HeadFit
from bloomery_trainer.engine.head_training import fit_on_features
from bloomery_trainer.errors import BadConfig
from bloomery_trainer.models import initial, precision
from bloomery_trainer.models.initial import Initial
from bloomery_trainer.models.presets import Start
from bloomery_trainer.publish.record import Record
from bloomery_trainer.recipe import notes as recipe_notes
from bloomery_trainer.recipe import resolve
from bloomery_trainer.resources import memory_bytes
from bloomery_trainer.tracking.observer import RunObserver

log = logging.getLogger(__name__)

_KEPT_HEAD_SHARE = 0.5
"""From this share of classes that the initial model knows, its head is kept and learns the others as it goes."""

_GRACE_SECONDS = 240.0
"""How long a pod that was asked to stop tries to save: its grace period is 300 s."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
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


def with_recipe(job: Job, dataset: LocalDataset, start: Initial | None) -> Job:
    """The job with its recipe, which depends on the number of images and on the start."""
    recipe = resolve(
        job.config.hyperparameters,
        job.preset,
        images=len(dataset.splits["train"]),
        start=_start_of(job, dataset, start),
        processes=job.world.size,
    )
    job = replace(job, resolved_recipe=recipe)
    job.memory.reserve(reserved_bytes(job))
    return job


def _start_of(job: Job, dataset: LocalDataset, start: Initial | None) -> Start:
    """What the head is before the first step: random in part, or as good as the body."""
    if start is None:
        return "scratch"
    if job.config.hyperparameters.trainable == "Head":
        return "pretrained"
    knows_all = set(dataset.classes) <= set(start.classes)
    return "head-probe" if knows_all or _fits_new_head(dataset, start) else "pretrained"


def _known_share(dataset: LocalDataset, start: Initial) -> float:
    """The share of classes that the initial model's head has a row for."""
    return len(set(dataset.classes) & set(start.classes)) / len(dataset.classes)


def _fits_new_head(dataset: LocalDataset, start: Initial) -> bool:
    """Whether a new head is fitted before fine-tuning: not where most of its rows come from the initial model."""
    return _known_share(dataset, start) < _KEPT_HEAD_SHARE


def fit(job: Job, dataset: LocalDataset, start: Initial | None, record: Record) -> Fitted:
    """Trains, from the newest checkpoint if there is one; raises Terminated on SIGTERM, after a checkpoint."""
    model, notes = build_model(job, dataset, start)
    if job.recipe.fits_head:
        fitted = _fit_head_alone(job, dataset, model, record, notes)
        if fitted is not None:
            return fitted
    return _fit_by_steps(job, dataset, start, model, record, notes)


def _fit_by_steps(
    job: Job, dataset: LocalDataset, start: Initial | None, model: nn.Module, record: Record, notes: tuple[str, ...]
) -> Fitted:
    """Trains with an optimizer, epoch by epoch."""
    saved: list[Saved] = []

    def on_saved(news: Saved) -> None:
        saved[:] = [news]
        job.progress.update(lastCheckpoint=news.document())

    plan = make_plan(job, dataset, record, on_saved)
    state, probe = _initial_state(job, dataset, start, model, plan)
    notes = (*notes, *_plan_notes(job, plan, model, probe))
    job.world.require_same("where to go on", f"step {state.step}, weights {weights_digest(model)}")
    record.begin(state.step)
    job.progress.update(starts=job.starts, step=state.step)
    if state.best is not None:
        job.progress.update(metric=round(state.best.rank[0], 5))
    _log_plan(job, dataset, start, plan)
    best = _run_loop(job, state, plan)
    job.progress.update(step=state.step)
    model.load_state_dict(best.weights)
    note = unreadable_note((*plan.batches.unreadable_keys(job.world), *dataset.unreadable_keys))
    improving = state.ending == "Trained" and is_still_improving(state.metrics)
    return Fitted(
        model=model,
        reason=state.ending or "Trained",
        best_epoch=best.epoch,
        notes=(*notes, *_outcome_notes(state, best, improving=improving), *([note] if note else [])),
        starts=job.starts,
        saved=saved[0] if saved else None,
        last_epoch={"epoch": state.epoch, **state.last_metrics},
        still_improving=improving,
    )


def _plan_notes(job: Job, plan: trainer.Plan, model: nn.Module, probe: HeadFit | None) -> Iterator[str]:
    """What people should know before the first step."""
    yield from recipe_notes(job.recipe, steps_per_epoch=plan.batches.steps_per_epoch)
    batch_norm = job.world.batch_norm_note(model, job.device, batch=plan.batches.batch)
    if batch_norm:
        log.warning("%s", batch_norm)
        yield batch_norm
    if probe is not None:
        yield f"{probe.sentence} Fine-tuning started from there."


def _log_plan(job: Job, dataset: LocalDataset, start: Initial | None, plan: trainer.Plan) -> None:
    log.info(
        "%s %s: %d images of %d classes, %d steps of %d images on %d × %s",
        job.config.preset, "from scratch" if start is None else f"from {start.origin}",
        len(dataset.splits["train"]), len(dataset.classes), plan.total_steps, plan.batches.batch,
        job.world.size, job.device.type,
    )  # fmt: skip


def _initial_state(
    job: Job, dataset: LocalDataset, start: Initial | None, model: nn.Module, plan: trainer.Plan
) -> tuple[trainer.TrainState, HeadFit | None]:
    """The state of the newest checkpoint, or that before the first step with a new head fitted on features."""
    earlier = plan.checkpoints.newest(job.world)
    probe = None
    if earlier is None and start is not None and job.recipe.trainable == "All" and _fits_new_head(dataset, start):
        # Random rows of a new head would spoil pretrained weights in the first steps (arXiv:2202.10054).
        probe = fit_on_features(job, dataset.splits["train"], model, plan.head)
    state = trainer.start(model, plan)
    if earlier is not None:
        _refuse_anothers(job, earlier)
        trainer.resume(state, earlier, plan)
        log.info("going on from the checkpoint at step %d", state.step)
    elif probe is not None:
        trainer.judge_start(state, plan)
    return state, probe


def _fit_head_alone(
    job: Job, dataset: LocalDataset, model: nn.Module, record: Record, notes: tuple[str, ...]
) -> Fitted | None:
    """Fits the head on features of the frozen body; None where they do not fit in memory."""
    record.begin(0)
    job.progress.update(starts=job.starts)
    head = job.preset.head(image_size=job.preprocess.crop)
    fit = fit_on_features(job, dataset.splits["train"], model, head)
    if fit is None:
        return None
    if fit.accuracy is not None:
        record.log({"train/cross_validated_top1": fit.accuracy, "train/head_strength": fit.strength}, 0)
    note = unreadable_note(dataset.unreadable_keys)
    return Fitted(
        model=model,
        reason="Trained",
        best_epoch=None,
        notes=(*notes, fit.sentence, *([note] if note else [])),
        starts=job.starts,
        saved=None,
    )


def _run_loop(job: Job, state: trainer.TrainState, plan: trainer.Plan) -> trainer.Best:
    """Trains, and leaves only when the last checkpoint is written or the grace period is nearly over."""
    try:
        best = trainer.fit(state, plan)
    except BaseException:
        _close(job, plan)
        raise
    if _close(job, plan) and job.world.is_leader:
        note_ended(job.output, state.step)
    return best


def _close(job: Job, plan: trainer.Plan) -> bool:
    with job.shutdown.deferring():
        return plan.checkpoints.close(seconds=_GRACE_SECONDS if job.shutdown.terminating else 0)


def _outcome_notes(state: trainer.TrainState, best: trainer.Best, *, improving: bool) -> Iterator[str]:
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


def _refuse_anothers(job: Job, saved: Mapping[str, Any]) -> None:
    """Raises BadConfig where the checkpoint is another job's, or of another version of the trainer."""
    if saved["uid"] != job.config.uid:
        raise BadConfig(
            "OutputTaken",
            f"{job.config.output.uri} holds checkpoints of another job: give this one a folder of its own",
        )
    if saved["format"] != checkpoint.FORMAT:
        raise BadConfig(
            "CheckpointOfAnotherVersion",
            f"the checkpoints in {job.config.output.uri} were written by another version of the trainer: go on with "
            "its image, or start a new job with initialModel.uri at the newest of them",
        )


def build_model(job: Job, dataset: LocalDataset, start: Initial | None) -> tuple[nn.Module, tuple[str, ...]]:
    """The network on the device, with the weights to start from, and what people should know of that."""
    size = job.recipe.training_size
    model = job.preset.build(len(dataset.classes), image_size=size)
    notes: list[str] = []
    if start is not None:
        head = job.preset.head(image_size=size)
        notes = initial.take_over(model, start, classes=dataset.classes, head=head)
        if job.recipe.trainable == "Head":
            initial.freeze_body(model, head)
    for note in notes:
        log.info("%s", note)
    return model.to(job.device).to(memory_format=precision.memory_format(job.device, side=size)), tuple(notes)


def make_plan(job: Job, dataset: LocalDataset, record: Record, on_saved: Callable[[Saved], None]) -> trainer.Plan:
    """What the loop is run with; `on_saved` hears of each checkpoint."""
    config, recipe = job.config, job.recipe
    batches = training_batches(
        dataset.splits["train"], job.preprocess, recipe, device=job.device, world=job.world, budget=job.memory
    )
    validation = job.evaluation_loader(dataset, "validation")
    return trainer.Plan(
        recipe=recipe,
        batches=batches,
        classes=len(dataset.classes),
        preprocess=job.preprocess,
        validate=lambda model: job.evaluate(model, validation),
        metric=config.metric,
        device=job.device,
        world=job.world,
        observer=_observer(job, record, batches.steps_per_epoch),
        shutdown=job.shutdown,
        checkpoints=Checkpoints(job.output, job.scratch, keep=config.checkpoint.keep, on_saved=on_saved),
        checkpoint=config.checkpoint,
        auxiliary=job.preset.auxiliary,
        depthwise=job.preset.depthwise,
        patience=config.early_stopping.patience if config.early_stopping else None,
        max_seconds=config.max_training_seconds,
        head=job.preset.head(image_size=recipe.training_size),
        class_weights=_class_weights(job, dataset),
        micro_batch=_micro_batch(job, batches.batch // job.world.size),
        identity={
            "uid": config.uid,
            "classes": list(dataset.classes),
            "preset": config.preset,
            "imageSize": recipe.image_size,
        },
    )


def _class_weights(job: Job, dataset: LocalDataset) -> Tensor | None:
    if job.recipe.balance != "Loss":
        return None
    return class_weights(dataset.splits["train"].labels, len(dataset.classes))


def _micro_batch(job: Job, batch: int) -> int:
    """Images that go through the network at a time: on a processor, as many as its memory holds.

    A GPU's memory is tried out by the steps themselves.
    """
    if job.device.type == "cuda":
        return batch
    limit = memory_bytes() / job.world.local_size
    size = memory.fitting_batch(job.preset, job.recipe, batch, is_reduced=_is_reduced(job), limit_bytes=limit)
    if size < batch:
        log.info("%.1f GiB of memory do not hold a step of %d images: %d at a time", limit / 2**30, batch, size)
    return size


def reserved_bytes(job: Job) -> int:
    """Memory of the node that this process needs for training, which decoded images must leave free."""
    if job.device.type == "cuda":
        return memory.GPU_PROCESS_BYTES
    own_batch = max(1, job.recipe.batch_size // job.world.size)
    recipe, size = job.recipe, _micro_batch(job, own_batch)
    return memory.step_memory_bytes(
        job.preset, recipe.training_size, size, bf16=_is_reduced(job), optimizer=recipe.optimizer
    )


def _is_reduced(job: Job) -> bool:
    size = job.recipe.training_size
    return precision.training_dtype(job.device, side=size, depthwise=job.preset.depthwise) is not None


def _observer(job: Job, record: Record, epoch_steps: int) -> trainer.Observer:
    if not job.world.is_leader:
        return trainer.Silent()
    total = job.recipe.total_steps(epoch_steps)
    return RunObserver(job.progress, record, metric=job.config.metric, total_steps=total, epoch_steps=epoch_steps)
