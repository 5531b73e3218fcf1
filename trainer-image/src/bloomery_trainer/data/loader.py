"""Batches of images: decoded once and kept in memory where they fit, else decoded by worker processes.

Images travel as uint8 [3, H, W] and are normalised on the device; evaluation sees exactly the pixels that the
model server will cut from the same file.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2  # type: ignore[import-untyped]

from bloomery_model import ImageError, Preprocess, decode, resize_shorter
from bloomery_trainer.data.augment import augmentation, largest_useful_side, random_crop_box
from bloomery_trainer.data.dataset import ImageFiles, LocalDataset
from bloomery_trainer.data.memory import MemoryBudget
from bloomery_trainer.data.sampling import EpochBatches, SampleIndex, SampleOrder, mix_seed
from bloomery_trainer.data.unreadable import UnreadableImage, UnreadableImages
from bloomery_trainer.distributed.world import World
from bloomery_trainer.parallel import map_in_order
from bloomery_trainer.recipe import Recipe, step_batch
from bloomery_trainer.resources import cpu_count, memory_bytes

logger = logging.getLogger(__name__)

EVALUATION_BATCH = 64
"""Images at a time and process: more make evaluation no faster, and take more memory than training did."""

_LEAST_EVALUATION_BATCH = 16

_SAMPLE_IMAGES = 64
"""After so many decoded images, the size of all of them is foreseen."""


class PixelSource(Protocol):
    """Decoded images at random access, uint8 [3, H, W]."""

    def __len__(self) -> int:
        """How many images there are."""

    def pixels(self, index: int) -> Tensor:
        """One image."""


class Decoder(Protocol):
    """Turns an image file's bytes into pixels, uint8 [3, H, W]."""

    @property
    def least_bytes(self) -> int:
        """What the pixels of any image take at least."""

    def __call__(self, data: bytes) -> Tensor:
        """Decodes one image."""


@dataclass(frozen=True)
class CenterCropDecoder:
    """Decodes to what the model sees in evaluation: [3, crop, crop]."""

    preprocess: Preprocess

    @property
    def least_bytes(self) -> int:
        """What the pixels of any image take at least."""
        return 3 * self.preprocess.crop**2

    def __call__(self, data: bytes) -> Tensor:
        """Decodes one image."""
        return _tensor(self.preprocess.pixels(decode(data, min_side=self.preprocess.min_decode_side)))


@dataclass(frozen=True)
class ResizeDecoder:
    """Decodes the whole image, at a shorter side of `side` to `largest` pixels: what augmentation cuts from."""

    side: int
    largest: int

    @property
    def least_bytes(self) -> int:
        """What the pixels of any image take at least."""
        return 3 * self.side**2

    def __call__(self, data: bytes) -> Tensor:
        """Decodes one image."""
        image: Image.Image = decode(data, min_side=self.largest)
        side = min(max(self.side, min(image.size)), self.largest)
        return _tensor(np.asarray(resize_shorter(image, side)))


@dataclass(frozen=True)
class LazyImages:
    """Decodes an image each time it is asked for."""

    files: ImageFiles
    decoder: Decoder

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.files)

    def pixels(self, index: int) -> Tensor:
        """One image; raises UnreadableImage where its file cannot be decoded."""
        return _decoded(self.files, index, self.decoder)


@dataclass(frozen=True)
class CachedImages:
    """Images that were decoded once; in place of one that cannot be decoded, the reason."""

    images: Sequence[Tensor | UnreadableImage]

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.images)

    def pixels(self, index: int) -> Tensor:
        """One image; raises UnreadableImage where its file could not be decoded."""
        image = self.images[index]
        if isinstance(image, UnreadableImage):
            raise UnreadableImage(str(image))
        return image


class TrainingSamples(Dataset[tuple[Tensor, Tensor]]):
    """What training draws from: augmented pixels and the class index (int64, no dimension).

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
        """How many images there are."""
        return len(self._source)

    def __getitem__(self, draw: SampleIndex) -> tuple[Tensor, Tensor]:
        """One image and its class."""
        index, repeat = draw
        pixels = self._readable(index)
        if self._augment is not None:
            with _seeded(mix_seed(self._seed, repeat, index)):
                pixels = self._augment(pixels)
        return pixels, self._labels[index]

    def _readable(self, index: int) -> Tensor:
        """Pixels of the image, or of the next one of its class; raises UnreadableImage where none can be decoded."""
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
        """Images uint8 [batch / processes, 3, H, W] and classes int64 of an epoch, from its step `first` on.

        Raises BadData where more images cannot be decoded than may be left out, or all of a class.
        """
        self.order.epoch, self.order.first = number, first
        try:
            for batch in self.loader:
                self.unreadable.require_few()
                yield batch
        except UnreadableImage as error:
            raise self.unreadable.none_left("a class") from error

    def unreadable_keys(self, world: World) -> tuple[str, ...]:
        """The names of the images that any process could not decode so far; all processes call this together."""
        return tuple(sorted({key for keys in world.gather(self.unreadable.keys) for key in keys}))


def training_batches(
    files: ImageFiles,
    preprocess: Preprocess,
    recipe: Recipe,
    *,
    device: torch.device,
    world: World,
    budget: MemoryBudget | None = None,
) -> TrainingBatches:
    """Shuffled, augmented batches of one size, which may be less than the recipe's.

    Decoded images are kept in memory as far as `budget` allows. Raises BadConfig where the recipe's batch is less than
    two images a process, BadData where too many images cannot be decoded.
    """
    batch = step_batch(recipe.batch_size, images=len(files), processes=world.size)
    draws = SampleOrder(files.labels, seed=recipe.seed, balanced=recipe.balance == "Sampling")
    order = EpochBatches(draws, images=len(files), batch=batch, world=world)
    source = _source(files, _training_decoders(recipe, preprocess), budget=budget or default_budget(world), world=world)
    unreadable = UnreadableImages(files)
    _count_unreadable(source, unreadable)
    samples = TrainingSamples(
        source,
        files.labels,
        augment=augmentation(recipe, preprocess.mean),
        seed=recipe.seed,
        unreadable=unreadable,
    )
    workers = _workers(source, device=device, world=world, batches=len(order))
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
) -> Loader:
    """This process's images in their order, as the model server would see them.

    `batch` is a size over all processes; at most EVALUATION_BATCH images are in memory of the device at a time.
    """
    batch = min(EVALUATION_BATCH, max(_LEAST_EVALUATION_BATCH, batch // world.size))
    mine = replace(files, records=files.records[world.rank :: world.size])
    source = _source(mine, [CenterCropDecoder(preprocess)], budget=budget or default_budget(world), world=world)
    workers = _workers(source, device=device, world=world, batches=math.ceil(len(mine) / batch))
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


Loader = DataLoader[tuple[Tensor, Tensor]]


def leave_out_unreadable(
    dataset: LocalDataset, preprocess: Preprocess, *, world: World, splits: Sequence[str] = ("validation", "test")
) -> LocalDataset:
    """The dataset without those images of `splits` that cannot be decoded; its `unreadable` names them.

    Each process decodes its share; all of them call this together. Raises BadData where there are too many of them, or
    nothing else is left of a split.
    """
    readable = dict(dataset.splits)
    unreadable = dict(dataset.unreadable)
    for split in (name for name in splits if name in dataset.splits):
        files = dataset.splits[split]
        indices = sorted(
            index for share in world.gather(_unreadable_share(files, preprocess, world)) for index in share
        )
        if not indices:
            continue
        failed = UnreadableImages(files)
        for index in indices:
            failed.add(index, UnreadableImage(f"{files.key(index)} of the {split} images cannot be decoded"))
        failed.require_few()
        if len(indices) == len(files):
            raise failed.none_left(f"split {split}")
        readable[split] = files.subset(np.delete(np.arange(len(files)), indices))
        unreadable[split] = failed.keys
    return replace(dataset, splits=readable, unreadable=unreadable)


def _unreadable_share(files: ImageFiles, preprocess: Preprocess, world: World) -> list[int]:
    """Which of this process's share of the images cannot be decoded."""
    source = LazyImages(files, CenterCropDecoder(preprocess))
    indices = range(world.rank, len(files), world.size)
    images = map_in_order(lambda index: _or_reason(source, index), indices, threads=processors(world))
    return [index for index, image in zip(indices, images, strict=True) if isinstance(image, UnreadableImage)]


def views(
    files: ImageFiles, preprocess: Preprocess, *, count: int, seed: int, horizontal_flip: bool = True, world: World
) -> Iterator[tuple[int, Tensor]]:
    """Several views of each of this process's images: pairs of its index and uint8 [count, 3, crop, crop].

    The first view is what evaluation sees, the second its mirror image where images may be flipped; the rest are random
    crops that depend on the seed, the index and the view alone. Images that cannot be decoded are left out.
    """

    def image_views(index: int) -> Tensor | None:
        try:
            return _decoded(files, index, _Views(preprocess, count, mix_seed(seed, index), horizontal_flip))
        except UnreadableImage as error:
            logger.warning("%s; it is left out", error)
            return None

    indices = range(world.rank, len(files), world.size)
    results = map_in_order(image_views, indices, threads=processors(world))
    return ((index, pixels) for index, pixels in zip(indices, results, strict=True) if pixels is not None)


@dataclass(frozen=True)
class _Views:
    """Decodes to several views of an image: uint8 [count, 3, crop, crop]."""

    preprocess: Preprocess
    count: int
    seed: int
    horizontal_flip: bool

    def __call__(self, data: bytes) -> Tensor:
        """Decode one image."""
        image = decode(data, min_side=self.preprocess.min_decode_side)
        framed = _tensor(self.preprocess.pixels(image))
        images = [framed, framed.flip(-1)] if self.horizontal_flip else [framed]
        random = np.random.default_rng(self.seed)
        size = (self.preprocess.crop, self.preprocess.crop)
        while len(images) < self.count:
            box = random_crop_box(random, *image.size)
            crop = _tensor(np.asarray(image.resize(size, Image.Resampling.BILINEAR, box=box)))
            images.append(crop.flip(-1) if self.horizontal_flip and random.random() < 0.5 else crop)
        return torch.stack(images[: self.count])


def normalise(images: Tensor, preprocess: Preprocess) -> Tensor:
    """From uint8 [N, 3, H, W] to what the model takes: float32, scaled to 0…1, then by mean and deviation."""
    mean, std = _statistics(preprocess.mean, preprocess.std, images.device)
    return (images.to(torch.float32) / 255 - mean) / std


@lru_cache
def _statistics(
    mean: tuple[float, float, float], std: tuple[float, float, float], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Mean and deviation on the device, each [3, 1, 1].

    They are copied there only once: copies from pageable memory make the host wait for the device.
    """
    with torch.inference_mode(False):
        return torch.tensor(mean, device=device).view(3, 1, 1), torch.tensor(std, device=device).view(3, 1, 1)


def default_budget(world: World) -> MemoryBudget:
    """The memory for decoded images of a process of which nothing else is known."""
    return MemoryBudget.for_process(memory_bytes(), processes=world.local_size)


def _training_decoders(recipe: Recipe, preprocess: Preprocess) -> list[Decoder]:
    """How training images are decoded, best first; the others take less memory."""
    if recipe.augmentation == "None" and recipe.training_size == preprocess.crop:
        return [CenterCropDecoder(preprocess)]
    largest = largest_useful_side(recipe, resize=preprocess.resize)
    return [ResizeDecoder(preprocess.resize, side) for side in sorted({largest, preprocess.resize}, reverse=True)]


def _source(files: ImageFiles, decoders: Sequence[Decoder], *, budget: MemoryBudget, world: World) -> PixelSource:
    """All images decoded by the first of the decoders whose images fit in memory, or else decoded each time."""
    for decoder in decoders:
        source = _in_memory(LazyImages(files, decoder), budget, threads=processors(world))
        if source is not None:
            return source
    logger.info("%d images do not fit in memory: they are decoded each time", len(files))
    return LazyImages(files, decoders[0])


def _in_memory(source: LazyImages, budget: MemoryBudget, *, threads: int) -> CachedImages | None:
    """The decoded images, or None as soon as it is clear that they take more memory than is left."""
    if len(source) * source.decoder.least_bytes > budget.available_bytes:
        return None
    images: list[Tensor | UnreadableImage] = []
    size = 0
    with closing(map_in_order(lambda index: _or_reason(source, index), range(len(source)), threads=threads)) as decoded:
        for image in decoded:
            images.append(image)
            size += image.nbytes if isinstance(image, Tensor) else 0
            whole = size if len(images) < _SAMPLE_IMAGES else size * len(source) / len(images)
            # The size of all is foreseen from those so far: if that is far off the mark, the rest need not be decoded.
            if size > budget.available_bytes or whole > 1.5 * budget.available_bytes:
                return None
    kept = CachedImages(images)
    budget.hold(kept, size)
    return kept


def _or_reason(source: PixelSource, index: int) -> Tensor | UnreadableImage:
    try:
        return source.pixels(index)
    except UnreadableImage as error:
        # Without its traceback, which would keep the file's bytes.
        return UnreadableImage(str(error))


def _decoded(files: ImageFiles, index: int, decoder: Callable[[bytes], Tensor]) -> Tensor:
    """The one place where an image file is decoded; raises UnreadableImage where that fails."""
    data = files.read(index)
    try:
        return decoder(data)
    except ImageError as error:
        raise UnreadableImage(f"{files.key(index)} {error}") from error


def _count_unreadable(source: PixelSource, unreadable: UnreadableImages) -> None:
    if isinstance(source, CachedImages):
        for index, image in enumerate(source.images):
            if isinstance(image, UnreadableImage):
                unreadable.add(index, image)
    unreadable.require_few()


def processors(world: World) -> int:
    """Processors that this process may use: its share of the node's."""
    return max(1, cpu_count() // world.local_size)


def _workers(source: PixelSource, *, device: torch.device, world: World, batches: int) -> int:
    """Processes that decode and augment; on a CPU alone they would only take it from the network itself."""
    available = processors(world)
    if device.type == "cuda":
        return min(available, batches, 16)
    return 0 if isinstance(source, CachedImages) else min(available - 1, batches)


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


def _tensor(pixels: np.ndarray) -> Tensor:
    # Laid out as it was decoded, a pixel's channels side by side: resizing and cropping are faster so.
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)
