"""Batches of images: decoded once and kept in memory where they fit, else decoded by worker processes.

Images travel as uint8 [3, H, W] and are normalised on the device; evaluation sees exactly the pixels that the
model server will cut from the same file.
"""

from __future__ import annotations

import logging
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms import v2  # type: ignore[import-untyped]

from bloomery_model import Preprocess, decode, resize_shorter
from bloomery_trainer.errors import BadConfig
from bloomery_trainer.parallel import map_in_order
from bloomery_trainer.resources import cpu_count, memory_bytes
from bloomery_trainer.train.dataset import ImageFiles
from bloomery_trainer.train.recipe import Recipe
from bloomery_trainer.train.world import World

log = logging.getLogger(__name__)

MEMORY_SHARE = 0.3
"""Of the memory limit, what decoded images may take."""

_TYPICAL_ASPECT = 1.5


class PixelSource(Protocol):
    """Decoded images at random access, uint8 [3, H, W]."""

    def __len__(self) -> int:
        """How many images there are."""

    def pixels(self, index: int) -> Tensor:
        """One image."""


class Decoder(Protocol):
    """Turns an image file's bytes into pixels, uint8 [3, H, W]."""

    def __call__(self, data: bytes) -> Tensor:
        """Decodes one image."""


@dataclass(frozen=True)
class Framed:
    """Decodes to what the model sees in evaluation: [3, crop, crop]."""

    preprocess: Preprocess

    def __call__(self, data: bytes) -> Tensor:
        """Decodes one image."""
        return _tensor(self.preprocess.pixels(decode(data, min_side=self.preprocess.min_decode_side)))


@dataclass(frozen=True)
class Whole:
    """Decodes the whole image, shrunk to a shorter side of `side` pixels: what augmentation cuts from."""

    side: int

    def __call__(self, data: bytes) -> Tensor:
        """Decodes one image."""
        image: Image.Image = decode(data, min_side=self.side)
        return _tensor(np.asarray(resize_shorter(image, self.side)))


@dataclass(frozen=True)
class OnDisk:
    """Decodes an image each time it is asked for."""

    files: ImageFiles
    decoder: Decoder

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.files)

    def pixels(self, index: int) -> Tensor:
        """One image."""
        return self.decoder(self.files.read(index))


@dataclass(frozen=True)
class InMemory:
    """Images that were decoded once."""

    images: list[Tensor]

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.images)

    def pixels(self, index: int) -> Tensor:
        """One image."""
        return self.images[index]


class EpochBatches(Sampler[list["Draw"]]):
    """Which images make up each step's batch, the same whoever asks, on any number of processes.

    The order depends on the seed and the epoch alone, so a training that was interrupted goes on with the very
    images that would have come next. Each process gets its share of every batch; the incomplete last batch of an
    epoch is left out. Set `epoch` and `first` before each pass.
    """

    def __init__(self, images: int, *, batch: int, seed: int, world: World) -> None:
        self.batch = min(batch, images)
        self.epoch = 0
        self.first = 0
        self._images = images
        self._seed = seed
        self._world = world

    def __len__(self) -> int:
        """Steps of a whole epoch."""
        return self._images // self.batch

    def __iter__(self) -> Iterator[list[Draw]]:
        """The batches from step `first` of the epoch on: this process's share of each."""
        generator = torch.Generator().manual_seed(_lot(self._seed, self.epoch))
        order = torch.randperm(self._images, generator=generator)
        for step in range(self.first, len(self)):
            batch = order[step * self.batch : (step + 1) * self.batch]
            yield [(index, self.epoch) for index in batch[self._world.rank :: self._world.size].tolist()]


Draw = tuple[int, int]
"""An image, and the epoch for which it is drawn."""


class TrainingSamples(Dataset[tuple[Tensor, Tensor]]):
    """What training draws from: augmented pixels and the class index (int64, no dimension).

    How an image is changed depends on the seed, the epoch and the image alone, not on who asks or when.
    """

    def __init__(self, source: PixelSource, labels: NDArray[np.int64], augment: v2.Transform | None, seed: int) -> None:
        self._source = source
        self._labels = torch.from_numpy(labels)
        self._augment = augment
        self._seed = seed

    def __len__(self) -> int:
        """How many images there are."""
        return len(self._source)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Tensor]:
        """One image and its class."""
        index, epoch = draw
        pixels = self._source.pixels(index)
        if self._augment is not None:
            with _seeded(_lot(self._seed, epoch, index)):
                pixels = self._augment(pixels)
        return pixels, self._labels[index]


class Samples(Dataset[tuple[Tensor, Tensor]]):
    """What evaluation reads: pixels and the class index (int64, no dimension)."""

    def __init__(self, source: PixelSource, labels: NDArray[np.int64]) -> None:
        self._source = source
        self._labels = torch.from_numpy(labels)

    def __len__(self) -> int:
        """How many images there are."""
        return len(self._source)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """One image and its class."""
        return self._source.pixels(index), self._labels[index]


@dataclass(frozen=True)
class TrainingBatches:
    """The batches of one process, epoch after epoch; `batch` is the size over all processes."""

    loader: Loader
    order: EpochBatches

    @property
    def batch(self) -> int:
        """Images in a step, over all processes."""
        return self.order.batch

    @property
    def steps_per_epoch(self) -> int:
        """Steps of a whole epoch."""
        return len(self.order)

    def epoch(self, number: int, *, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Images uint8 [batch / processes, 3, H, W] and classes int64 of an epoch, from its step `first` on."""
        self.order.epoch, self.order.first = number, first
        yield from self.loader


def training_batches(
    files: ImageFiles, preprocess: Preprocess, recipe: Recipe, *, device: torch.device, world: World
) -> TrainingBatches:
    """Shuffled, augmented batches of one size.

    Raises BadConfig where the batch can not be shared by all processes.
    """
    order = EpochBatches(len(files), batch=recipe.batch_size, seed=recipe.seed, world=world)
    if order.batch % world.size:
        raise BadConfig(
            "InvalidConfig",
            f"hyperparameters.batchSize is the size over all processes, and {order.batch} can not be shared by "
            f"{world.size} of them: make it a multiple of {world.size}",
        )
    framed = recipe.augmentation == "None" and recipe.training_size == preprocess.crop
    decoder = Framed(preprocess) if framed else Whole(preprocess.resize)
    source = _source(files, decoder, side=preprocess.resize, world=world)
    samples = TrainingSamples(source, files.labels, augmentation(recipe), recipe.seed)
    workers = _workers(source, device=device, world=world, batches=len(order))
    loader = DataLoader(
        samples,
        batch_sampler=order,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )
    return TrainingBatches(loader, order)


def evaluation_loader(
    files: ImageFiles, preprocess: Preprocess, *, batch: int, device: torch.device, world: World
) -> Loader:
    """This process's images in their order, as the model server would see them."""
    mine = replace(files, records=files.records[world.rank :: world.size])
    source = _source(mine, Framed(preprocess), side=preprocess.crop, world=world)
    workers = _workers(source, device=device, world=world, batches=math.ceil(len(mine) / batch))
    return DataLoader(
        Samples(source, mine.labels),
        batch_size=batch,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )


Loader = DataLoader[tuple[Tensor, Tensor]]


def augmentation(recipe: Recipe) -> v2.Transform | None:
    """What happens to each training image, by the recipe; None where nothing does."""
    steps: list[v2.Transform] = []
    size = recipe.training_size
    if recipe.augmentation == "Light":
        steps.append(v2.RandomResizedCrop(size, scale=(0.7, 1.0), ratio=(0.9, 1.1), antialias=True))
    if recipe.augmentation == "TrivialAugment":
        steps.append(v2.RandomResizedCrop(size, scale=(0.25, 1.0), antialias=True))
        steps.append(v2.TrivialAugmentWide())
        steps.append(v2.RandomErasing(p=0.1))
    if recipe.horizontal_flip:
        steps.append(v2.RandomHorizontalFlip())
    return v2.Compose(steps) if steps else None


def normalise(images: Tensor, preprocess: Preprocess) -> Tensor:
    """From uint8 [N, 3, H, W] to what the model takes: float32, scaled to 0…1, then by mean and deviation."""
    mean = torch.tensor(preprocess.mean, device=images.device).view(3, 1, 1)
    std = torch.tensor(preprocess.std, device=images.device).view(3, 1, 1)
    return (images.to(torch.float32) / 255 - mean) / std


def _source(files: ImageFiles, decoder: Decoder, *, side: int, world: World) -> PixelSource:
    on_disk = OnDisk(files, decoder)
    needed = len(files) * 3 * side * side * _TYPICAL_ASPECT * world.local_size
    if needed > MEMORY_SHARE * memory_bytes():
        log.info("%d images do not fit in memory: they are decoded each time", len(files))
        return on_disk
    return InMemory(list(map_in_order(on_disk.pixels, range(len(files)), threads=processors(world))))


def processors(world: World) -> int:
    """Processors that this process may use: its share of the node's."""
    return max(1, cpu_count() // world.local_size)


def _workers(source: PixelSource, *, device: torch.device, world: World, batches: int) -> int:
    """Processes that decode and augment; on a CPU alone they would only take it from the network itself."""
    available = processors(world)
    if device.type == "cuda":
        return min(available, batches, 16)
    return 0 if isinstance(source, InMemory) else min(available - 1, batches)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draws from a sequence of its own within the block, and leaves the process's as it was."""
    generator = torch.default_generator
    before = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(before)


def _lot(*numbers: int) -> int:
    """A seed of 32 bits, all that the generator takes, from several numbers."""
    return zlib.crc32(repr(numbers).encode())


def _tensor(pixels: np.ndarray) -> Tensor:
    # Laid out as it was decoded, a pixel's channels side by side: resizing and cropping are faster so.
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)
