"""Decoded images at random access: kept in memory where they fit, else on the local disk, else decoded each time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bloomery_model import ImageError, Preprocess
from bloomery_model.cgroup import cpu_count, memory_bytes
from bloomery_model.parallel import map_in_order
from bloomery_trainer.data.dataset import ImageFiles, LocalDataset
from bloomery_trainer.data.decoders import CenterCropDecoder, Decoder, ViewsDecoder
from bloomery_trainer.data.memory import MemoryBudget
from bloomery_trainer.data.pixel_source import PixelSource
from bloomery_trainer.data.sampling import mix_seed
from bloomery_trainer.data.scratch_cache import ScratchCache
from bloomery_trainer.data.unreadable import UnreadableImage, UnreadableImages
from bloomery_trainer.distributed.world import World

logger = logging.getLogger(__name__)

_SAMPLE_IMAGES = 64
"""After so many decoded images, the size of all of them is foreseen."""


@dataclass(frozen=True)
class LazyImages:
    """Decodes an image each time it is asked for."""

    files: ImageFiles
    decoder: Decoder

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.files)

    def pixels(self, index: int) -> Tensor:
        """Return one image; raise UnreadableImage if its file cannot be decoded."""
        return _decode_image(self.files, index, self.decoder)


@dataclass(frozen=True)
class CachedImages:
    """Images that were decoded once; in place of one that cannot be decoded, the reason."""

    images: Sequence[Tensor | UnreadableImage]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def pixels(self, index: int) -> Tensor:
        """Return one image; raise UnreadableImage if its file could not be decoded."""
        image = self.images[index]
        if isinstance(image, UnreadableImage):
            raise UnreadableImage(str(image))
        return image


def open_images(
    files: ImageFiles,
    decoders: Sequence[Decoder],
    *,
    budget: MemoryBudget,
    cache: ScratchCache | None,
    world: World,
) -> PixelSource:
    """Return all images decoded by the first of the decoders whose images fit in memory.

    Where none does, they are kept in ``cache``, and without that decoded each time.
    """
    for decoder in decoders:
        cached = _cache_images(LazyImages(files, decoder), budget, threads=processors(world))
        if cached is not None:
            return cached
    source = LazyImages(files, decoders[0])
    if cache is None:
        logger.info("%d images do not fit in memory: they are decoded each time", len(files))
        return source
    logger.info("%d images do not fit in memory: decoded ones are kept on the local disk", len(files))
    return cache.open(source, repr(source.decoder).encode() + files.records.tobytes())


def _cache_images(source: LazyImages, budget: MemoryBudget, *, threads: int) -> CachedImages | None:
    """Return the decoded images, or None as soon as it is clear that they take more memory than is left."""
    if len(source) * source.decoder.least_bytes > budget.available_bytes:
        return None
    images: list[Tensor | UnreadableImage] = []
    size = 0
    with closing(
        map_in_order(lambda index: _pixels_or_error(source, index), range(len(source)), threads=threads)
    ) as decoded:
        for image in decoded:
            images.append(image)
            size += image.nbytes if isinstance(image, Tensor) else 0
            whole = size if len(images) < _SAMPLE_IMAGES else size * len(source) / len(images)
            # The size of all is foreseen from those so far: if that is far off the mark, the rest need not be decoded.
            if size > budget.available_bytes or whole > 1.5 * budget.available_bytes:
                return None
    cached = CachedImages(images)
    budget.hold(cached, size)
    return cached


def leave_out_unreadable(
    dataset: LocalDataset, preprocess: Preprocess, *, world: World, splits: Sequence[str] = ("validation", "test")
) -> LocalDataset:
    """Return the dataset without those images of ``splits`` that cannot be decoded; its ``unreadable`` names them.

    Each process decodes its share; all of them call this together.

    Raises:
        BadData: there are too many of them, or nothing else is left of a split.
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
    """Return the indices of images in this process's share that cannot be decoded."""
    source = LazyImages(files, CenterCropDecoder(preprocess))
    indices = range(world.rank, len(files), world.size)
    images = map_in_order(lambda index: _pixels_or_error(source, index), indices, threads=processors(world))
    return [index for index, image in zip(indices, images, strict=True) if isinstance(image, UnreadableImage)]


def views(
    files: ImageFiles,
    preprocess: Preprocess,
    indices: NDArray[np.int64],
    *,
    count: int,
    seed: int,
    flip_axes: tuple[int, ...] = (-1,),
    world: World,
) -> Generator[tuple[int, Tensor]]:
    """Yield several views of each image of ``indices``: pairs of its index and uint8 [count, 3, crop, crop].

    The first view is what evaluation sees, then come its mirror images along each axis; the rest are random
    crops that depend on the seed, the index and the view alone. Images that cannot be decoded are left out.
    """

    def image_views(index: int) -> Tensor | None:
        try:
            return _decode_image(files, index, ViewsDecoder(preprocess, count, mix_seed(seed, index), flip_axes))
        except UnreadableImage as error:
            logger.warning("%s; it is left out", error)
            return None

    order: list[int] = indices.tolist()
    with closing(map_in_order(image_views, order, threads=processors(world))) as results:
        yield from ((index, pixels) for index, pixels in zip(order, results, strict=True) if pixels is not None)


def default_budget(world: World) -> MemoryBudget:
    """Return the memory for decoded images of a process of which nothing else is known."""
    return MemoryBudget.for_process(memory_bytes(), processes=world.local_size)


def processors(world: World) -> int:
    """Return the number of processors that this process may use: its share of the node's."""
    return max(1, cpu_count() // world.local_size)


def _decode_image(files: ImageFiles, index: int, decoder: Callable[[bytes], Tensor]) -> Tensor:
    """Decode an image file, here and nowhere else; raise UnreadableImage if that fails."""
    data = files.read(index)
    try:
        return decoder(data)
    except ImageError as error:
        raise UnreadableImage(f"{files.key(index)} {error}") from error


def _pixels_or_error(source: PixelSource, index: int) -> Tensor | UnreadableImage:
    try:
        return source.pixels(index)
    except UnreadableImage as error:
        # Without its traceback, which would keep the file's bytes.
        return UnreadableImage(str(error))
