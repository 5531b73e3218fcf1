"""Fits a model's head on features of the training images, as a whole training or as the start of fine-tuning."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
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
from bloomery_trainer.engine.cooldown import CooldownReason
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
_STOP = "stop"


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
    """The fit of a head, and the features that it was fitted on.

    Attributes:
        fit: how it was fitted.
        ended: why it was fitted on fewer images than there are; None where it was on all of them.
        seconds: that features and fit took.
        features: None on all processes but the leader.
    """

    fit: HeadFit
    ended: CooldownReason | None
    seconds: float
    features: TrainingFeatures | None


def fit_on_features(
    context: RunContext,
    files: ImageFiles,
    model: nn.Module,
    head: frozenset[str],
    *,
    max_seconds: float | None = None,
) -> FittedHead | None:
    """Fit the head in place; all processes end with the same weights.

    Args:
        context: the run.
        files: the training images.
        model: pretrained, on the job's device.
        head: names of the parameters that depend on the number of classes.
        max_seconds: the time for features: what is computed by then, or until ``stop``, is what the head is fitted on.

    Returns:
        How it was fitted; None if the features do not fit in memory.
    """
    began = time.monotonic()
    classifier = find_classifier(model, head)
    count = _affordable_views(context, files, classifier)
    if count == 0:
        logger.warning("features of %d images do not fit in memory: the head is trained by steps", len(files))
        return None
    own = _compute_share(
        context, files, model, classifier, count=count, world=context.world, end=_EarlyEnd(context, max_seconds)
    )
    shares = context.world.gather_to_leader(own)
    joined = None if shares is None else _join(shares)
    fit, ended = context.world.broadcast(lambda: _fit(context, files, classifier, joined))
    _share_weights(context, classifier)
    logger.info("%s", fit.sentence)
    features = None
    if joined is not None:
        # A copy, so that the other views leave the memory.
        features = TrainingFeatures(indices=joined.indices, values=joined.features[:, 0].copy())
    return FittedHead(fit=fit, ended=ended, seconds=time.monotonic() - began, features=features)


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
    """One process's images and their features float32 [images, views, D]; why these are not all of its images."""

    indices: NDArray[np.int64]
    features: Features
    ended: CooldownReason | None


class _EarlyEnd:
    """Decides when the features computed so far must do: time is over, or any process was asked to stop."""

    def __init__(self, context: RunContext, max_seconds: float | None) -> None:
        self._world, self._shutdown = context.world, context.shutdown
        self._deadline = math.inf if max_seconds is None else time.monotonic() + max_seconds

    def reason(self) -> CooldownReason | None:
        """Return why it is time, or None if it is not."""
        if self._shutdown.stopping:
            self._world.announce(_STOP)
            return "Stopped"
        if time.monotonic() >= self._deadline:
            return "TrainingTimeReached"
        return "Stopped" if self._world.is_announced(_STOP) else None


def _affordable_views(context: RunContext, files: ImageFiles, classifier: nn.Linear) -> int:
    for count in (count_views(len(files)), MIN_VIEWS, 1):
        needed_bytes = _COPIES * 4 * len(files) * count * classifier.in_features
        if needed_bytes <= _MEMORY_SHARE * context.memory.available_bytes:
            return count
    return 0


def _compute_share(
    context: RunContext,
    files: ImageFiles,
    model: nn.Module,
    classifier: nn.Linear,
    *,
    count: int,
    world: World,
    end: _EarlyEnd | None = None,
) -> _Share:
    """Compute this process's share of the features, in so many views of each image, as far as ``end`` lets it."""
    order = np.arange(len(files)) if end is None else _class_by_class_first(files.labels)
    images = _Pass(context, files, order[world.rank :: world.size], count=count, end=end)
    autocast = precision.reduced(context.device, side=context.preprocess.crop)
    features = compute_features(model, classifier, images.batches(world), autocast=autocast)
    shape = (len(images.indices), count, classifier.in_features)
    return _Share(np.asarray(images.indices, np.int64), features.reshape(shape), images.ended)


def _class_by_class_first(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the order in which to read images: one of each class, then the others in their own, random order.

    So the head knows all classes, however early reading ends.
    """
    _, first = np.unique(labels, return_index=True)
    return np.concatenate([np.sort(first), np.setdiff1d(np.arange(len(labels)), first)])


class _Pass:
    """One pass over images, in several views of each.

    Attributes:
        indices: of the images that were read.
        ended: why not all were; None if all were.
    """

    def __init__(
        self, context: RunContext, files: ImageFiles, own: NDArray[np.int64], *, count: int, end: _EarlyEnd | None
    ) -> None:
        self.indices: list[int] = []
        self.ended: CooldownReason | None = None
        self._context, self._files, self._own, self._count, self._end = context, files, own, count, end
        self._images_per_batch = max(1, BATCH_SIZE // count)
        self._began = self._reported = time.monotonic()

    def batches(self, world: World) -> Iterator[Tensor]:
        """Yield normalized views of some images at a time, on the device, and report how far it is."""
        self._context.progress.update(
            stage="features", epoch=0, step=0, totalSteps=-(-len(self._own) // self._images_per_batch)
        )
        recipe = self._context.recipe
        missing = set(self._files.labels[self._own].tolist())
        pending: list[Tensor] = []
        with closing(
            views(
                self._files,
                self._context.preprocess,
                self._own,
                count=self._count,
                seed=recipe.seed,
                flip_axes=recipe.flip_axes,
                world=world,
            )
        ) as source:
            for index, pixels in source:
                self.indices.append(index)
                missing.discard(int(self._files.labels[index]))
                pending.append(pixels)
                if len(pending) < self._images_per_batch:
                    continue
                yield self._on_device(pending)
                pending = []
                self._report_sometimes()
                if not missing and self._is_over():
                    break
        if pending:
            yield self._on_device(pending)
        self._report()

    def _is_over(self) -> bool:
        self.ended = self._end.reason() if self._end is not None and len(self.indices) < len(self._own) else None
        return self.ended is not None

    def _on_device(self, pending: Sequence[Tensor]) -> Tensor:
        context = self._context
        images = normalise(torch.cat(tuple(pending)).to(context.device), context.preprocess)
        layout = precision.memory_format(context.device, side=context.preprocess.crop)
        return images.contiguous(memory_format=layout)

    def _report_sometimes(self) -> None:
        now = time.monotonic()
        if now - self._reported > _PROGRESS_SECONDS:
            self._reported = now
            self._report()

    def _report(self) -> None:
        done, total = len(self.indices), len(self._own)
        seconds = max(time.monotonic() - self._began, 1e-9)
        rate = done * self._count / seconds
        left_seconds = 0.0 if self.ended else seconds / max(1, done) * (total - done)
        self._context.progress.update(
            step=-(-done // self._images_per_batch), imagesPerSecond=round(rate, 1), etaSeconds=round(left_seconds)
        )
        logger.info("features of %d of %d images, %.0f views/s", done, total, rate)


def _join(shares: Sequence[_Share]) -> _Share:
    """Join the shares of all processes, in the order of the images."""
    order = np.argsort(np.concatenate([share.indices for share in shares]))
    indices = np.concatenate([share.indices for share in shares])[order]
    ended = next((share.ended for share in shares if share.ended is not None), None)
    return _Share(indices, np.concatenate([share.features for share in shares])[order], ended)


def _fit(
    context: RunContext, files: ImageFiles, classifier: nn.Linear, joined: _Share | None
) -> tuple[HeadFit, CooldownReason | None]:
    """Fit the head; only the leader, which has the features of all processes, calls this."""
    assert joined is not None
    context.progress.update(stage="fitting")
    fit = fit_head(
        classifier,
        [joined.features[:, view] for view in range(joined.features.shape[1])],
        files.labels[joined.indices],
        balance=context.recipe.balance != "None",
        seed=context.recipe.seed,
    )
    return fit, joined.ended


def _share_weights(context: RunContext, classifier: nn.Linear) -> None:
    state = context.world.broadcast(lambda: {name: value.cpu() for name, value in classifier.state_dict().items()})
    classifier.load_state_dict(state)
