"""Batches of images, in a fixed order for evaluation, shuffled and augmented for training."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2  # type: ignore[import-untyped]

from bloomery_model import Preprocess
from bloomery_trainer.data.augment import augmentation
from bloomery_trainer.data.dataset import ImageFiles
from bloomery_trainer.data.decoders import CenterCropDecoder, training_decoders
from bloomery_trainer.data.images import CachedImages, default_budget, open_images, processors
from bloomery_trainer.data.memory import MemoryBudget
from bloomery_trainer.data.pixel_source import PixelSource
from bloomery_trainer.data.sampling import EpochBatches, SampleIndex, SampleOrder, mix_seed
from bloomery_trainer.data.scratch_cache import ScratchCache
from bloomery_trainer.data.unreadable import UnreadableImage, UnreadableImages
from bloomery_trainer.distributed.world import World
from bloomery_trainer.recipe import Recipe, step_batch

EVALUATION_BATCH = 64
"""Images at a time and process: more make evaluation no faster, and take more memory than training did."""

_LEAST_EVALUATION_BATCH = 16

Loader = DataLoader[tuple[Tensor, Tensor]]


class TrainingSamples(Dataset[tuple[Tensor, Tensor]]):
    """The samples of training: augmented pixels and the class index (int64, no dimension).

    How an image is changed depends on the seed and the draw alone, not on who asks or when. In place of an image that
    cannot be decoded, the next one of its class that can be is taken.
    """

    def __init__(
        self,
        source: PixelSource,
        labels: NDArray[np.int64],
        *,
        augment: v2.Transform | None,
        seed: int,
        unreadable: UnreadableImages,
    ) -> None:
        self._source = source
        self._labels = torch.from_numpy(labels)
        self._augment = augment
        self._seed = seed
        self._unreadable = unreadable

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._source)

    def __getitem__(self, draw: SampleIndex) -> tuple[Tensor, Tensor]:
        """Return one image and its class."""
        index, repeat = draw
        pixels = self._readable(index)
        if self._augment is not None:
            with _seeded(mix_seed(self._seed, repeat, index)):
                pixels = self._augment(pixels)
        return pixels, self._labels[index]

    def _readable(self, index: int) -> Tensor:
        """Return the pixels of the image, or of the next one of its class.

        Raise UnreadableImage if none can be decoded.
        """
        try:
            return self._source.pixels(index)
        except UnreadableImage as error:
            self._unreadable.add(index, error)
            reason = error
        for other in self._unreadable.replacements(index):
            try:
                return self._source.pixels(other)
            except UnreadableImage as error:
                self._unreadable.add(other, error)
        raise reason


class Samples(Dataset[tuple[Tensor, Tensor]]):
    """The samples of evaluation: pixels and the class index (int64, no dimension)."""

    def __init__(self, source: PixelSource, labels: NDArray[np.int64]) -> None:
        self._source = source
        self._labels = torch.from_numpy(labels)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._source)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return one image and its class."""
        return self._source.pixels(index), self._labels[index]


@dataclass(frozen=True)
class TrainingBatches:
    """The batches of one process, epoch after epoch; ``batch`` is the size over all processes."""

    loader: Loader
    order: EpochBatches
    unreadable: UnreadableImages

    @property
    def batch(self) -> int:
        """Images in a step, over all processes."""
        return self.order.batch

    @property
    def steps_per_epoch(self) -> int:
        """Steps of a whole epoch."""
        return len(self.order)

    def epoch(self, number: int, *, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images uint8 [batch / processes, 3, H, W] and classes int64 of an epoch, from its step ``first`` on.

        Raises:
            BadData: more images cannot be decoded than may be left out, or all of a class.
        """
        self.order.epoch, self.order.first = number, first
        try:
            for batch in self.loader:
                self.unreadable.require_few()
                yield batch
        except UnreadableImage as error:
            raise self.unreadable.none_left("a class") from error

    def unreadable_keys(self, world: World) -> tuple[str, ...]:
        """Return the names of the images that any process could not decode so far; all processes call this together."""
        return tuple(sorted({key for keys in world.gather(self.unreadable.keys) for key in keys}))


def training_batches(
    files: ImageFiles,
    preprocess: Preprocess,
    recipe: Recipe,
    *,
    device: torch.device,
    world: World,
    budget: MemoryBudget | None = None,
    cache: ScratchCache | None = None,
) -> TrainingBatches:
    """Return shuffled, augmented batches of one size, which may be less than the recipe's.

    Decoded images are kept in memory if ``budget`` allows it, else in ``cache``.

    Raises:
        BadConfig: the recipe's batch is less than two images a process.
        BadData: too many images cannot be decoded.
    """
    batch = step_batch(recipe.batch_size, images=len(files), processes=world.size)
    draws = SampleOrder(files.labels, seed=recipe.seed, balanced=recipe.balance == "Sampling")
    order = EpochBatches(draws, images=len(files), batch=batch, world=world)
    decoders = training_decoders(recipe, preprocess)
    source = open_images(files, decoders, budget=budget or default_budget(world), cache=cache, world=world)
    unreadable = UnreadableImages(files)
    _count_unreadable(source, unreadable)
    samples = TrainingSamples(
        source,
        files.labels,
        augment=augmentation(recipe, preprocess.mean),
        seed=recipe.seed,
        unreadable=unreadable,
    )
    workers = _worker_count(source, device=device, world=world, batches=len(order))
    loader = DataLoader(
        samples,
        batch_sampler=order,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),
    )
    return TrainingBatches(loader, order, unreadable)


def evaluation_loader(
    files: ImageFiles,
    preprocess: Preprocess,
    *,
    batch: int,
    device: torch.device,
    world: World,
    budget: MemoryBudget | None = None,
    cache: ScratchCache | None = None,
) -> Loader:
    """Return this process's images in their order, as the model server would see them.

    ``batch`` is a size over all processes; at most EVALUATION_BATCH images are in memory of the device at a time.
    """
    batch = min(EVALUATION_BATCH, max(_LEAST_EVALUATION_BATCH, batch // world.size))
    mine = replace(files, records=files.records[world.rank :: world.size])
    decoders = [CenterCropDecoder(preprocess)]
    source = open_images(mine, decoders, budget=budget or default_budget(world), cache=cache, world=world)
    workers = _worker_count(source, device=device, world=world, batches=math.ceil(len(mine) / batch))
    return DataLoader(
        Samples(source, mine.labels),
        batch_size=batch,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
        # Else each iteration draws a seed for workers from the generator that dropout and mixup draw from, and a
        # training that was interrupted would go on with other random numbers than one that was not.
        generator=torch.Generator(),
    )


def _count_unreadable(source: PixelSource, unreadable: UnreadableImages) -> None:
    if isinstance(source, CachedImages):
        for index, image in enumerate(source.images):
            if isinstance(image, UnreadableImage):
                unreadable.add(index, image)
    unreadable.require_few()


def _worker_count(source: PixelSource, *, device: torch.device, world: World, batches: int) -> int:
    """Return the number of worker processes that decode; without a GPU, they would only take the processor's time."""
    available = processors(world)
    if device.type == "cuda":
        return min(available, batches, 16)
    return 0 if isinstance(source, CachedImages) else min(available - 1, batches)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw from a sequence of its own within the block, and leave the process's as it was."""
    generator = torch.default_generator
    before = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(before)
