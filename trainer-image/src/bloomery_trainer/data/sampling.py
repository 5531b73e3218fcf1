"""The order in which training sees images, and how classes of different size are balanced."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler

from bloomery_trainer.distributed.world import World

SampleIndex = tuple[int, int]
"""An image, and how many times it was drawn before; no two draws of a training are equal."""

_MAX_WEIGHT_RATIO = 10.0


class SampleOrder:
    """An endless sequence of draws: one pass over the images after another, each in an order of its own.

    A pass has as many draws as there are images. It depends on the labels, the seed and its number alone. All images
    are drawn equally often; ``balanced``, all classes are, and within a class all images.
    """

    def __init__(self, labels: NDArray[np.int64], *, seed: int, balanced: bool = False) -> None:
        self._images = len(labels)
        self._seed = seed
        self._classes = [np.flatnonzero(labels == label) for label in np.unique(labels)] if balanced else []
        self._latest: tuple[int, NDArray[np.int64]] = -1, np.empty((0, 2), np.int64)

    def between(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the draws from position ``start`` up to ``stop``: int64 [stop - start, 2]."""
        numbers = range(start // self._images, (stop - 1) // self._images + 1)
        firsts = [number * self._images for number in numbers]
        parts = [
            self._pass(number)[max(0, start - first) : stop - first]
            for number, first in zip(numbers, firsts, strict=True)
        ]
        return np.concatenate(parts)

    def _pass(self, number: int) -> NDArray[np.int64]:
        if self._latest[0] != number:
            self._latest = number, self._balanced_pass(number) if self._classes else self._plain_pass(number)
        return self._latest[1]

    def _plain_pass(self, number: int) -> NDArray[np.int64]:
        order = _permutation(self._images, mix_seed(self._seed, number))
        return np.stack([order, np.full_like(order, number)], axis=1)

    def _balanced_pass(self, number: int) -> NDArray[np.int64]:
        # These shares differ by one at most, and add up to the number of images (Hermite's identity).
        bounds = [
            tuple((each * self._images + place) // len(self._classes) for each in (number, number + 1))
            for place in range(len(self._classes))
        ]
        draws = np.concatenate([self._class_draws(place, *each) for place, each in enumerate(bounds)])
        return draws[_permutation(len(draws), mix_seed(self._seed, number))]

    def _class_draws(self, place: int, start: int, stop: int) -> NDArray[np.int64]:
        """Return the draws ``start`` to ``stop`` of a class, from its own endless sequence of passes."""
        members = self._classes[place]
        size = len(members)
        parts = [np.empty((0, 2), np.int64)]
        for number in range(start // size, -(-stop // size)):
            order = members[_permutation(size, mix_seed(self._seed, place, number))]
            part = np.stack([order, np.full_like(order, number)], axis=1)
            parts.append(part[max(0, start - number * size) : stop - number * size])
        return np.concatenate(parts)


class EpochBatches(Sampler[list[SampleIndex]]):
    """The images of each step's batch, the same on any number of processes; each process gets its share.

    Batches run on over the ends of passes, so no image is left out. An epoch is the number of steps that comes
    closest to one pass. Set ``epoch`` and ``first`` before each iteration, which then begins at that step of the epoch.
    """

    def __init__(self, order: SampleOrder, *, images: int, batch: int, world: World) -> None:
        self.batch = batch
        self.epoch = 0
        self.first = 0
        self._order = order
        self._images = images
        self._world = world

    def __len__(self) -> int:
        """Return the steps of a whole epoch."""
        return max(1, (2 * self._images + self.batch - 1) // (2 * self.batch))

    def __iter__(self) -> Iterator[list[SampleIndex]]:
        """Return the batches from step ``first`` of the epoch on: this process's share of each."""
        for step in range(self.first, len(self)):
            start = (self.epoch * len(self) + step) * self.batch
            draws = self._order.between(start, start + self.batch)[self._world.rank :: self._world.size]
            yield [(index, repeat) for index, repeat in draws.tolist()]


def class_weights(labels: NDArray[np.int64], classes: int) -> Tensor:
    """Return the weights of the classes for a weighted loss: float32 [classes], in inverse proportion to their images.

    No weight is more than ten times another, and their mean over the images is 1.
    """
    counts = np.bincount(labels, minlength=classes)
    inverse = 1 / np.maximum(counts, 1)
    weights = np.minimum(inverse, _MAX_WEIGHT_RATIO * inverse[counts > 0].min())
    return torch.tensor(weights * counts.sum() / (weights * counts).sum(), dtype=torch.float32)


def mix_seed(*numbers: int) -> int:
    """Return a seed of 32 bits, all that a generator takes, from several numbers."""
    return zlib.crc32(repr(numbers).encode())


def _permutation(size: int, seed: int) -> NDArray[np.int64]:
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed)).numpy()
