"""Batches of images: decoded once and kept in memory where they fit, else decoded by worker processes.

Images travel as uint8 [3, H, W] and are normalised on the device; evaluation sees exactly the pixels that the
model server will cut from the same file.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2  # type: ignore[import-untyped]

from bloomery_trainer.images import Preprocess, decode, resize_shorter
from bloomery_trainer.parallel import map_in_order
from bloomery_trainer.resources import cpu_count, memory_bytes
from bloomery_trainer.train.dataset import ImageFiles
from bloomery_trainer.train.recipe import Recipe

log = logging.getLogger(__name__)

MEMORY_SHARE = 0.3
"""Of the memory limit, what decoded images may take."""

_TYPICAL_ASPECT = 1.5
_LARGE = 128


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
        return _tensor(self.preprocess.pixels(decode(data)))


@dataclass(frozen=True)
class Whole:
    """Decodes the whole image, shrunk to a shorter side of `side` pixels: what augmentation cuts from."""

    side: int

    def __call__(self, data: bytes) -> Tensor:
        """Decodes one image."""
        image: Image.Image = decode(data, at_least=self.side)
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


class Samples(Dataset[tuple[Tensor, Tensor]]):
    """What a DataLoader draws from: augmented pixels and the class index (int64, no dimension)."""

    def __init__(self, source: PixelSource, labels: NDArray[np.int64], augment: v2.Transform | None) -> None:
        self._source = source
        self._labels = torch.from_numpy(labels)
        self._augment = augment

    def __len__(self) -> int:
        """How many images there are."""
        return len(self._source)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """One image and its class."""
        pixels = self._source.pixels(index)
        if self._augment is not None:
            pixels = self._augment(pixels)
        return pixels, self._labels[index]


def training_loader(files: ImageFiles, preprocess: Preprocess, recipe: Recipe, device: torch.device) -> Loader:
    """Shuffled, augmented batches of one size."""
    decoder = Framed(preprocess) if recipe.augmentation == "None" else Whole(preprocess.resize)
    source = _source(files, decoder, side=preprocess.resize)
    samples = Samples(source, files.labels, augmentation(recipe))
    batch = min(recipe.batch_size, len(samples))
    return _loader(samples, source, batch=batch, device=device, seed=recipe.seed, shuffle=True)


def evaluation_loader(files: ImageFiles, preprocess: Preprocess, *, batch: int, device: torch.device) -> Loader:
    """All images in their order, as the model server would see them."""
    source = _source(files, Framed(preprocess), side=preprocess.crop)
    return _loader(Samples(source, files.labels, None), source, batch=batch, device=device, seed=0, shuffle=False)


Loader = DataLoader[tuple[Tensor, Tensor]]


def augmentation(recipe: Recipe) -> v2.Transform | None:
    """What happens to each training image, by the recipe; None where nothing does."""
    steps: list[v2.Transform] = []
    if recipe.augmentation == "Light":
        steps.append(v2.RandomResizedCrop(recipe.image_size, scale=(0.7, 1.0), ratio=(0.9, 1.1), antialias=True))
    if recipe.augmentation == "TrivialAugment":
        size = training_size(recipe.image_size)
        steps.append(v2.RandomResizedCrop(size, scale=(0.25, 1.0), antialias=True))
        steps.append(v2.TrivialAugmentWide())
        steps.append(v2.RandomErasing(p=0.1))
    if recipe.horizontal_flip:
        steps.append(v2.RandomHorizontalFlip())
    return v2.Compose(steps) if steps else None


def training_size(image_size: int) -> int:
    """The side to train at under strong cropping: 176 for 224, as crops show things larger than they are.

    Smaller is faster, and better too: https://arxiv.org/abs/1906.06423.
    """
    return image_size if image_size < _LARGE else round(image_size * 176 / 224 / 16) * 16


def normalise(images: Tensor, preprocess: Preprocess) -> Tensor:
    """From uint8 [N, 3, H, W] to what the model takes: float32, scaled to 0…1, then by mean and deviation."""
    mean = torch.tensor(preprocess.mean, device=images.device).view(3, 1, 1)
    std = torch.tensor(preprocess.std, device=images.device).view(3, 1, 1)
    return (images.to(torch.float32) / 255 - mean) / std


def _source(files: ImageFiles, decoder: Decoder, *, side: int) -> PixelSource:
    on_disk = OnDisk(files, decoder)
    needed = len(files) * 3 * side * side * _TYPICAL_ASPECT
    if needed > MEMORY_SHARE * memory_bytes():
        log.info("%d images do not fit in memory: they are decoded each time", len(files))
        return on_disk
    return InMemory(list(map_in_order(on_disk.pixels, range(len(files)), threads=cpu_count())))


def _loader(
    samples: Samples, source: PixelSource, *, batch: int, device: torch.device, seed: int, shuffle: bool
) -> Loader:
    workers = _workers(in_memory=isinstance(source, InMemory), device=device, batches=math.ceil(len(samples) / batch))
    return DataLoader(
        samples,
        batch_size=batch,
        shuffle=shuffle,
        drop_last=shuffle,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
        generator=torch.Generator().manual_seed(seed),
    )


def _workers(*, in_memory: bool, device: torch.device, batches: int) -> int:
    """Processes that decode and augment; on a CPU alone they would only take it from the network itself."""
    processors = cpu_count()
    if device.type == "cuda":
        return min(processors, batches, 16)
    return 0 if in_memory else min(processors - 1, batches)


def _tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).contiguous()
