"""Suspected labels: training images that a classifier, fitted without them, gives to another class.

Confident learning (arXiv:1911.00068) on out-of-fold probabilities: logistic regression on the features of the body that
the training started from. The trained network itself has seen every label, and repeats many of the wrong ones.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import nn

from bloomery_model.cgroup import memory_bytes
from bloomery_trainer.data.dataset import LocalDataset
from bloomery_trainer.engine.context import RunContext
from bloomery_trainer.engine.head import FOLDS, Features, find_classifier, out_of_fold_probabilities
from bloomery_trainer.engine.head_training import TrainingFeatures, compute_training_features
from bloomery_trainer.engine.training import TrainingResult, build_model
from bloomery_trainer.models import precision
from bloomery_trainer.models.initial import Initial
from bloomery_trainer.progress_server import Progress
from bloomery_trainer.shutdown import Terminated

logger = logging.getLogger(__name__)

MAX_IMAGES = 20_000
"""Images that are examined at most; of more, a random sample."""

_MAX_PRODUCTS = 2 * 10**10
"""Images times classes times features, by which a fit takes seconds to minutes."""

_MEMORY_SHARE = 0.5
"""Of the memory that is free for images, what features and their copies may take."""

_COPIES = 4

MOVE_SCORE = 0.8
"""From this score of the likely class on, the image probably belongs there; below, it may belong to no class."""


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """A training image whose label is probably wrong.

    Attributes:
        index: its position among the training images.
        given_class: index of the class that it has.
        likely_class: index of the most probable class.
        given_score: out-of-fold probability of the given class, 0 to 1.
        likely_score: out-of-fold probability of the likely class.
    """

    index: int
    given_class: int
    likely_class: int
    given_score: float
    likely_score: float

    @property
    def may_move(self) -> bool:
        """Whether the image probably belongs to the likely class; otherwise it may belong to none."""
        return self.likely_score >= MOVE_SCORE


@dataclass(frozen=True, kw_only=True)
class Suspects:
    """The result of the examination of a training's labels.

    Attributes:
        items: the most suspicious first.
        examined: number of images that were examined.
        images: number of training images.
        is_from_scratch: whether the features are those of the trained network, because it started without weights.
        fault: why the labels could not be examined, as a sentence.
    """

    items: tuple[Suspect, ...] = ()
    examined: int = 0
    images: int = 0
    is_from_scratch: bool = False
    fault: str | None = None


def examine_labels(
    context: RunContext, dataset: LocalDataset, result: TrainingResult, start: Initial | None
) -> Suspects:
    """Return the suspected labels of the training images; a fault is logged and returned, never raised.

    Args:
        context: the run, on the leader.
        dataset: with the training images.
        result: of the training.
        start: what the training started from; None for scratch.
    """
    context.progress.update(stage="labels")
    # The steps of this pass are none of the training's.
    context, files = replace(context, progress=Progress()), dataset.splits["train"]
    try:
        features = result.features or _features(context, dataset, result.model, start)
        limit = _image_limit(context, dataset, dimensions=features.values.shape[1])
        suspects, examined = find_suspects(features, files.labels, limit=limit, seed=context.recipe.seed)
    except Terminated:
        raise
    except Exception as error:
        logger.warning("the labels could not be examined", exc_info=True)
        return Suspects(images=len(files), fault=f"{type(error).__name__}: {error}")
    logger.info("%d of %d examined training images have suspected labels", len(suspects), examined)
    return Suspects(items=suspects, examined=examined, images=len(files), is_from_scratch=start is None)


def find_suspects(
    features: TrainingFeatures, labels: NDArray[np.int64], *, limit: int, seed: int
) -> tuple[tuple[Suspect, ...], int]:
    """Return the suspects among the images with features, the most suspicious first, and the number examined.

    Classes with fewer than ``FOLDS`` images are not examined.

    Args:
        features: of some of the training images.
        labels: of all training images, int64 [N].
        limit: on the number of examined images.
        seed: of the sample and of the folds.
    """
    rows = _sample(len(features.indices), limit, seed)
    sampled = labels[features.indices[rows]]
    rows = rows[np.bincount(sampled)[sampled] >= FOLDS]
    present, own = np.unique(labels[features.indices[rows]], return_inverse=True)
    if len(present) < 2:
        return (), 0
    probabilities = out_of_fold_probabilities(features.values[rows], own, seed=seed)
    order = _order_issues(own, probabilities)
    suspects = tuple(
        Suspect(
            index=int(features.indices[rows[row]]),
            given_class=int(present[own[row]]),
            likely_class=int(present[probabilities[row].argmax()]),
            given_score=float(probabilities[row, own[row]]),
            likely_score=float(probabilities[row].max()),
        )
        for row in order
    )
    return suspects, len(rows)


def _order_issues(labels: NDArray[np.int64], probabilities: Features) -> NDArray[np.int64]:
    """Return the rows with label issues, those first whose own class is the least probable.

    Confident learning estimates how many labels of one class are really of another. Pruning by that rate misses an
    image whose error is the only one of its kind, such as one of no class; the least probable labels include those.
    """
    # Imported here: it takes a second, and only the leader needs it.
    from cleanlab.filter import find_label_issues

    # Processes would copy the probabilities, and pods have little memory for that.
    masks = [
        find_label_issues(labels, probabilities, filter_by=method, n_jobs=1)
        for method in ("prune_by_noise_rate", "low_self_confidence")
    ]
    issues = np.flatnonzero(np.logical_or(*masks) & (probabilities.argmax(axis=1) != labels))
    return issues[np.argsort(probabilities[issues, labels[issues]], kind="stable")]


def _features(
    context: RunContext, dataset: LocalDataset, trained: nn.Module, start: Initial | None
) -> TrainingFeatures:
    """Compute features of a sample of the training images, in one pass over them."""
    files, size = dataset.splits["train"], context.recipe.training_size
    if start is None:
        layout = precision.memory_format(context.device, side=size)
        model = copy.deepcopy(trained).to(context.device).to(memory_format=layout)
    else:
        model, _ = build_model(context, dataset, start)
    head = context.preset.head(image_size=size)
    limit = _image_limit(context, dataset, dimensions=find_classifier(model, head).in_features)
    rows = _sample(len(files), limit, context.recipe.seed)
    features = compute_training_features(context, files.subset(rows), model, head)
    return TrainingFeatures(indices=rows[features.indices], values=features.values)


def _image_limit(context: RunContext, dataset: LocalDataset, *, dimensions: int) -> int:
    """Return the number of images whose features memory holds, and whose fits take minutes at most.

    Raises:
        MemoryError: memory holds the features of hardly any image.
    """
    # Training left a tenth of the memory free, and needs no more of its own.
    least_bytes = memory_bytes() // context.world.local_size // 10
    feature_bytes = max(least_bytes, int(_MEMORY_SHARE * context.memory.available_bytes))
    fitting = feature_bytes // (_COPIES * 4 * dimensions)
    if fitting < FOLDS * len(dataset.classes):
        raise MemoryError(f"memory holds the features of {fitting} images, too few for {len(dataset.classes)} classes")
    return min(MAX_IMAGES, _MAX_PRODUCTS // (dimensions * len(dataset.classes)), fitting)


def _sample(count: int, limit: int, seed: int) -> NDArray[np.int64]:
    """Return so many of ``count`` positions at most, sorted."""
    if count <= limit:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, limit, replace=False))
