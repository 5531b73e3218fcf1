"""The recipe: every hyperparameter of a run with its value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any, Literal, Self

from pydantic.alias_generators import to_camel

from bloomery_trainer.config import Hyperparameters, parse_schedule
from bloomery_trainer.errors import BadConfig
from bloomery_trainer.models.presets import REFERENCE_BATCH, Augmentation, OptimizerName, Preset, Rates, Start

Stages = tuple[tuple[int, float], ...]

IMAGES_SEEN: Mapping[Literal["scratch", "pretrained"], tuple[tuple[int, int], ...]] = {
    "scratch": ((100, 40_000), (3_000, 175_000), (50_000, 5_000_000), (1_300_000, 117_000_000)),
    "pretrained": (
        (100, 4_000),
        (1_000, 7_000),
        (20_000, 256_000),
        (500_000, 5_120_000),
        (1_300_000, 10_240_000),
    ),
}
"""Length of a run: (training images of the set, images shown in all), interpolated on logarithmic axes.

Fine-tuning follows BiT-HyperRule (arXiv:1912.11370, section 3.3), whose anchors are 500 steps of 512 images for sets
below 20,000 images, 10,000 below 500,000 and 20,000 above: 256,000, 5.12 million and 10.24 million images. Smaller sets
than BiT's take less. From scratch, the last anchor is ImageNet's usual 90 epochs.
"""

BATCH_SIZE = 32
"""Images in a step of one process."""

SHORT_RUN_IMAGES = 320_000
"""Up to so many images shown (10,000 steps of 32), strong augmentation costs more than it gives."""

SMALL_IMAGE_PIXELS = 96
"""Image size below which things fill the frame, as digits and icons do: crops must leave nearly all of it."""

MAX_WARMUP_STEPS = 500
"""The most that the learning rate rises for by default, as in BiT-HyperRule; twice as long for a doubled share."""

MAX_GRAD_NORM: Mapping[OptimizerName, float] = {"sgd": 5.0, "adamw": 1.0}
"""Largest norm of a step's gradient over all weights; a larger gradient is scaled down to it."""

_STEP_FIELDS = (
    "epochs",
    "max_steps",
    "learning_rate",
    "learning_rate_schedule",
    "optimizer",
    "warmup_epochs",
    "augmentation",
    "mixup",
    "ema",
)
"""Hyperparameters that speak of steps: who gives one with a frozen body wants the head trained by steps."""

REDUCED_CROPS: frozenset[Augmentation] = frozenset({"TrivialAugment", "Crops"})
"""Augmentations under which training images are smaller than those of evaluation; see ``_training_size``."""

_REDUCED_FROM_PIXELS = 160

_LEAST_PER_PROCESS = 2
"""Batch normalisation has no variance over one image."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All hyperparameters of a run, none left open but one of ``epochs`` and ``max_steps``.

    ``stages`` are the pairs (until epoch, rate) of a given schedule; if empty, the rate follows a cosine.
    ``learning_rate`` is the body's, ``head_learning_rate`` that of the parameters that depend on the number of classes.
    """

    start: Start
    epochs: int | None
    max_steps: int | None
    batch_size: int
    learning_rate: float
    head_learning_rate: float
    stages: Stages
    optimizer: OptimizerName
    momentum: float
    weight_decay: float
    max_grad_norm: float
    warmup_epochs: float
    label_smoothing: float
    image_size: int
    training_size: int
    augmentation: Augmentation
    horizontal_flip: bool
    vertical_flip: bool
    mixup: float
    ema: float
    balance: Literal["None", "Loss", "Sampling"]
    trainable: Literal["All", "Head"]
    trains_by_steps: bool
    seed: int

    @property
    def flip_axes(self) -> tuple[int, ...]:
        """The axes of an image [3, H, W] along which half of the training images are mirrored."""
        return tuple(axis for axis, flips in ((-1, self.horizontal_flip), (-2, self.vertical_flip)) if flips)

    @property
    def fits_head(self) -> bool:
        """Whether only the head is trained, and no setting asks for steps: it is then fitted on features."""
        return self.trainable == "Head" and not self.trains_by_steps

    def total_steps(self, steps_per_epoch: int) -> int:
        """Return the optimizer steps of the whole run."""
        return self.max_steps if self.max_steps is not None else (self.epochs or 0) * steps_per_epoch

    def warmup_steps(self, steps_per_epoch: int) -> int:
        """Return the steps in which the rate rises; at least one step has the full rate."""
        return min(round(self.warmup_epochs * steps_per_epoch), self.total_steps(steps_per_epoch) - 1)

    def document(self) -> dict[str, Any]:
        """Return all values under the names of the API, for a JSON file."""
        return {to_camel(name): value for name, value in asdict(self).items()}

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> Self:
        """Read what ``document`` made, also after a way through JSON; earlier versions knew no vertical flip."""
        document = {"verticalFlip": False, **document}
        values = {name: document[to_camel(name)] for name in (field.name for field in fields(cls))}
        return cls(**{**values, "stages": tuple((until, rate) for until, rate in values["stages"])})

    def parameters(self) -> dict[str, Any]:
        """Return the parameters for MLflow by the names of the API, without those that do not apply."""
        values = asdict(self)
        stages = values.pop("stages")
        if stages:
            values["learning_rate_schedule"] = ",".join(f"{until}:{rate:g}" for until, rate in stages)
        return {to_camel(key): value for key, value in values.items() if value is not None}


def resolve(settings: Hyperparameters, preset: Preset, *, images: int, start: Start, processes: int = 1) -> Recipe:
    """Choose what is not given by the preset, the number of training images and what training starts from.

    Args:
        settings: explicit values; each of them wins.
        preset: the architecture and its rates.
        images: of the training split.
        start: random weights, pretrained ones, or pretrained ones whose head was fitted before.
        processes: that share a batch.

    Raises:
        BadConfig: the preset cannot be built for the image size, or the batch cannot be shared by the processes.
    """
    optimizer = settings.optimizer or preset.optimizer
    batch_size = step_batch(settings.batch_size or BATCH_SIZE * processes, images=images, processes=processes)
    stages = parse_schedule(settings.learning_rate_schedule) if settings.learning_rate_schedule else ()
    epochs = stages[-1][0] if stages else settings.epochs or default_epochs(images, start)
    size = image_size(settings, preset)
    shown = settings.max_steps * batch_size if settings.max_steps is not None else epochs * images
    augmentation = settings.augmentation or _augmentation(start, shown, size)
    rates = preset.rates[optimizer][start]
    body, head = _learning_rates(settings, rates, stages, _rate_scale(batch_size))
    return Recipe(
        start=start,
        epochs=None if settings.max_steps is not None else epochs,
        max_steps=settings.max_steps,
        batch_size=batch_size,
        learning_rate=body,
        head_learning_rate=head,
        stages=stages,
        optimizer=optimizer,
        momentum=_or_default(settings.momentum, 0.9),
        weight_decay=_or_default(settings.weight_decay, rates.weight_decay),
        max_grad_norm=MAX_GRAD_NORM[optimizer],
        warmup_epochs=0 if stages else _warmup_epochs(settings, preset, epochs, max(1, images // batch_size)),
        label_smoothing=_or_default(settings.label_smoothing, 0.1),
        image_size=size,
        training_size=_training_size(size, augmentation, preset),
        augmentation=augmentation,
        horizontal_flip=settings.horizontal_flip,
        vertical_flip=settings.vertical_flip,
        mixup=settings.mixup,
        ema=_or_default(settings.ema, 0.0),
        balance=settings.balance,
        trainable=settings.trainable,
        trains_by_steps=trains_by_steps(settings),
        seed=settings.seed,
    )


def trains_by_steps(settings: Hyperparameters) -> bool:
    """Return whether training takes steps; else the head is fitted on features."""
    return settings.trainable == "All" or any(getattr(settings, name) for name in _STEP_FIELDS)


def image_size(settings: Hyperparameters, preset: Preset) -> int:
    """Return the side in pixels of what the model sees; raise BadConfig if the preset cannot be built for it."""
    size = settings.image_size or preset.image_size
    if size < preset.smallest:
        raise BadConfig(
            "InvalidConfig", f"hyperparameters.imageSize is {size}; this preset needs at least {preset.smallest}"
        )
    return size


def images_seen(images: int, start: Start) -> int:
    """Return the number of images to show in a whole run on a set of so many, by IMAGES_SEEN.

    Beyond its end, epochs stay the same.
    """
    anchors = IMAGES_SEEN["scratch" if start == "scratch" else "pretrained"]
    if images <= anchors[0][0]:
        return anchors[0][1]
    for (small, low), (large, high) in pairwise(anchors):
        if images <= large:
            position = math.log(images / small) / math.log(large / small)
            return round(low * math.pow(high / low, position))
    last, seen = anchors[-1]
    return round(seen * images / last)


def step_batch(requested: int, *, images: int, processes: int) -> int:
    """Return the number of images in a step over all processes: a multiple of ``processes``, and 2 a process at least.

    It is smaller than ``requested`` only where there are fewer images.

    Raises:
        BadConfig: ``requested`` is not a multiple of ``processes``, or less than 2 a process.
    """
    least = _LEAST_PER_PROCESS * processes
    if requested % processes:
        raise BadConfig(
            "InvalidConfig",
            f"hyperparameters.batchSize is the size over all processes, and {requested} cannot be shared by "
            f"{processes} of them: make it a multiple of {processes}",
        )
    if requested < least:
        raise BadConfig(
            "InvalidConfig",
            f"batch normalisation needs hyperparameters.batchSize of at least 2 a process: make it {least} or more",
        )
    return max(least, min(requested, images) // processes * processes)


def default_epochs(images: int, start: Start) -> int:
    """Return the number of passes over a set of so many images."""
    return max(1, math.ceil(images_seen(images, start) / max(1, images)))


def notes(recipe: Recipe, *, steps_per_epoch: int) -> tuple[str, ...]:
    """Return notes on the choices, in sentences."""
    sentences: list[str] = []
    total, warmup = recipe.total_steps(steps_per_epoch), recipe.warmup_steps(steps_per_epoch)
    if warmup > total / 2:
        sentences.append(
            f"The learning rate rises for {warmup} of {total} steps and hardly falls again; a lower "
            "hyperparameters.warmupEpochs, or none, leaves time to learn."
        )
    return tuple(sentences)


def _augmentation(start: Start, shown: int, size: int) -> Augmentation:
    """Choose strong augmentation only for long runs from scratch: short ones do not recover from it."""
    if start == "scratch" and shown >= SHORT_RUN_IMAGES:
        return "TrivialAugment"
    return "Light" if size < SMALL_IMAGE_PIXELS else "Crops"


def _rate_scale(batch_size: int) -> float:
    # The deviation of a mean over the batch falls with the root of its size (arXiv:1404.5997). From a reference of 32,
    # the linear rule (arXiv:1706.02677) would reach four times the usual rates at 256 images.
    return math.sqrt(batch_size / REFERENCE_BATCH)


def _learning_rates(settings: Hyperparameters, rates: Rates, stages: Stages, scale: float) -> tuple[float, float]:
    """Return the rates of the body and of the head; an explicit rate holds for both."""
    explicit = max(rate for _, rate in stages) if stages else settings.learning_rate
    if explicit is not None:
        return explicit, explicit
    body = rates.head if settings.trainable == "Head" else rates.body
    return body * scale, rates.head * scale


def _warmup_epochs(settings: Hyperparameters, preset: Preset, epochs: int, steps_per_epoch: int) -> float:
    if settings.warmup_epochs is not None:
        return settings.warmup_epochs
    total = settings.max_steps if settings.max_steps is not None else epochs * steps_per_epoch
    # People give far more epochs than maxTrainingTime allows: the rate must not rise for most of that time.
    steps = min(preset.warmup_share * total, preset.warmup_share / 0.05 * MAX_WARMUP_STEPS)
    return steps / steps_per_epoch


def _training_size(size: int, augmentation: Augmentation, preset: Preset) -> int:
    """Return the side to train at under strong cropping: 176 for 224, as crops show things larger than they are.

    Smaller is faster, and better too: https://arxiv.org/abs/1906.06423.
    """
    if augmentation not in REDUCED_CROPS or size < _REDUCED_FROM_PIXELS:
        return size
    smaller = round(size * 176 / 224 / 16) * 16
    # Auxiliary heads that the full size has must not be lost by it.
    return size if preset.has_auxiliary(size) and not preset.has_auxiliary(smaller) else smaller


def _or_default(value: float | None, default: float) -> float:
    return default if value is None else value
