"""Fits a model's head on features of the training images, as a whole training or as the start of fine-tuning."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bloomery_trainer.data.dataset import ImageFiles
from bloomery_trainer.data.decoders import normalise
from bloomery_trainer.data.images import views
from bloomery_trainer.distributed.world import World
from bloomery_trainer.engine.context import RunContext
from bloomery_trainer.engine.head import Features, HeadFit, compute_features, find_classifier, fit_head
from bloomery_trainer.models import precision
from bloomery_trainer.recipe import BATCH_SIZE

logger = logging.getLogger(__name__)

VIEW_BUDGET = 12_000
"""Views to compute in all: a small set gains from more views of each image, a large one has enough images."""

MIN_VIEWS, MAX_VIEWS = 2, 8

_MEMORY_SHARE = 0.5
"""Of the memory that is free for images, what features and the copies that fits make of them may take."""

_COPIES = 3
_PROGRESS_SECONDS = 5.0


def count_views(images: int) -> int:
    """Return how many views of each image are worth computing for a set of so many."""
    return min(MAX_VIEWS, max(MIN_VIEWS, VIEW_BUDGET // max(1, images)))


@dataclass(frozen=True, kw_only=True)
class TrainingFeatures:
    """Features of training images in the view that evaluation sees.

    Attributes:
        indices: positions of the images among the training images, int64 [N].
        values: float32 [N, D].
    """

    indices: NDArray[np.int64]
    values: Features


@dataclass(frozen=True, kw_only=True)
class FittedHead:
    """The fit of a head, and the features that it was fitted on; None on all processes but the leader."""

    fit: HeadFit
    features: TrainingFeatures | None


def fit_on_features(
    context: RunContext, files: ImageFiles, model: nn.Module, head: frozenset[str]
) -> FittedHead | None:
    """Fit the head in place; all processes end with the same weights.

    Args:
        context: the run.
        files: the training images.
        model: pretrained, on the job's device.
        head: names of the parameters that depend on the number of classes.

    Returns:
        How it was fitted; None if the features do not fit in memory.
    """
    classifier = find_classifier(model, head)
    count = _affordable_views(context, files, classifier)
    if count == 0:
        logger.warning("features of %d images do not fit in memory: the head is trained by steps", len(files))
        return None
    own = _compute_share(context, files, model, classifier, count=count, world=context.world)
    shares = context.world.gather_to_leader(own)
    joined = None if shares is None else _join(shares)
    fit = context.world.broadcast(lambda: _fit(context, files, classifier, joined))
    _share_weights(context, classifier)
    logger.info("%s", fit.sentence)
    features = None
    if joined is not None:
        # A copy, so that the other views leave the memory.
        features = TrainingFeatures(indices=joined.indices, values=joined.features[:, 0].copy())
    return FittedHead(fit=fit, features=features)


def compute_training_features(
    context: RunContext, files: ImageFiles, model: nn.Module, head: frozenset[str]
) -> TrainingFeatures:
    """Compute the features of all images by this process alone, in one view each.

    Args:
        context: the run.
        files: the images.
        model: on the run's device; left in evaluation mode.
        head: names of the parameters that depend on the number of classes.
    """
    share = _compute_share(context, files, model, find_classifier(model, head), count=1, world=World())
    return TrainingFeatures(indices=share.indices, values=share.features[:, 0])


class _Share(NamedTuple):
    """One process's images and their features float32 [images, views, D]."""

    indices: NDArray[np.int64]
    features: Features


def _affordable_views(context: RunContext, files: ImageFiles, classifier: nn.Linear) -> int:
    for count in (count_views(len(files)), MIN_VIEWS, 1):
        needed_bytes = _COPIES * 4 * len(files) * count * classifier.in_features
        if needed_bytes <= _MEMORY_SHARE * context.memory.available_bytes:
            return count
    return 0


def _compute_share(
    context: RunContext, files: ImageFiles, model: nn.Module, classifier: nn.Linear, *, count: int, world: World
) -> _Share:
    """Compute this process's share of the features, in so many views of each image."""
    indices: list[int] = []
    source = views(
        files,
        context.preprocess,
        count=count,
        seed=context.recipe.seed,
        flip_axes=context.recipe.flip_axes,
        world=world,
    )
    batches = _batches(context, source, indices, total=-(-len(files) // world.size), count=count)
    autocast = precision.reduced(context.device, side=context.preprocess.crop)
    features = compute_features(model, classifier, batches, autocast=autocast)
    return _Share(np.asarray(indices, np.int64), features.reshape(len(indices), count, classifier.in_features))


def _batches(
    context: RunContext, source: Iterator[tuple[int, Tensor]], indices: list[int], *, total: int, count: int
) -> Iterator[Tensor]:
    """Yield normalized views of some images at a time; fill ``indices``, and report how far it is."""
    images_per_batch = max(1, BATCH_SIZE // count)
    side = context.preprocess.crop
    began = reported = time.monotonic()
    pending: list[Tensor] = []
    context.progress.update(stage="features", epoch=0, step=0, totalSteps=-(-total // images_per_batch))
    for index, pixels in source:
        indices.append(index)
        pending.append(pixels)
        if len(pending) == images_per_batch:
            yield _on_device(context, pending, side)
            pending = []
        now = time.monotonic()
        if now - reported > _PROGRESS_SECONDS:
            reported = now
            _report(context, done=len(indices), total=total, seconds=now - began, count=count)
    if pending:
        yield _on_device(context, pending, side)
    _report(context, done=total, total=total, seconds=max(time.monotonic() - began, 1e-9), count=count)


def _on_device(context: RunContext, pending: Sequence[Tensor], side: int) -> Tensor:
    images = normalise(torch.cat(tuple(pending)).to(context.device), context.preprocess)
    return images.contiguous(memory_format=precision.memory_format(context.device, side=side))


def _report(context: RunContext, *, done: int, total: int, seconds: float, count: int) -> None:
    images_per_batch = max(1, BATCH_SIZE // count)
    context.progress.update(
        step=-(-done // images_per_batch),
        imagesPerSecond=round(done * count / seconds, 1),
        etaSeconds=round(seconds / done * (total - done)),
    )
    logger.info("features of %d of %d images, %.0f views/s", done, total, done * count / seconds)


def _join(shares: Sequence[_Share]) -> _Share:
    """Join the shares of all processes, in the order of the images."""
    order = np.argsort(np.concatenate([share.indices for share in shares]))
    indices = np.concatenate([share.indices for share in shares])[order]
    return _Share(indices, np.concatenate([share.features for share in shares])[order])


def _fit(context: RunContext, files: ImageFiles, classifier: nn.Linear, joined: _Share | None) -> HeadFit:
    """Fit the head; only the leader, which has the features of all processes, calls this."""
    assert joined is not None
    context.progress.update(stage="fitting")
    return fit_head(
        classifier,
        [joined.features[:, view] for view in range(joined.features.shape[1])],
        files.labels[joined.indices],
        balance=context.recipe.balance != "None",
        seed=context.recipe.seed,
    )


def _share_weights(context: RunContext, classifier: nn.Linear) -> None:
    state = context.world.broadcast(lambda: {name: value.cpu() for name, value in classifier.state_dict().items()})
    classifier.load_state_dict(state)
