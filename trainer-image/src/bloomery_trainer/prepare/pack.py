"""Packs the images of each split into shards; the shards that an earlier run has completed are left as they are."""

from __future__ import annotations

import hashlib
import logging
import math
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice

from bloomery_model.sources.base import DamagedFile, Source, map_reads, read_listed_file
from bloomery_model.split_folders import SPLITS
from bloomery_trainer.errors import Unavailable
from bloomery_trainer.prepare.file_table import Sample, SampleQueries
from bloomery_trainer.prepare.resume import ResumeState
from bloomery_trainer.prepare.shards import Shard, encode_image, write_shard
from bloomery_trainer.prepare.worker_pool import WorkerPool
from bloomery_trainer.progress_server import Progress
from bloomery_trainer.storage import Folder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PackContext:
    """The state that all workers share.

    Attributes:
        sources: the sources of the images.
        target: the folder of the dataset's versions.
        resume: takes the completed shards.
        version: of the dataset.
        class_indices: the index of each class.
    """

    sources: Sequence[Source]
    target: Folder
    resume: ResumeState
    version: str
    class_indices: Mapping[str, int]


@dataclass(frozen=True)
class _ShardPlan:
    """A shard to write: its images, each with its number in the split."""

    name: str
    samples: list[tuple[int, Sample]]


def pack_samples(
    samples: SampleQueries, context: PackContext, *, shard_images: int, workers: WorkerPool, progress: Progress
) -> dict[str, list[Shard]]:
    """Write the shards of all splits, ``shard_images`` images each."""
    counts = samples.count()
    total = sum(counts.values())
    progress.update(stage="writing", images=0, total=total)
    names = {split: _shard_names(split, counts, shard_images) for split in SPLITS}
    shards = _find_completed_shards(context, chain.from_iterable(names.values()))
    done = sum(shard.images for shard in shards.values())
    plans = _plan_shards(samples, names, shard_images=shard_images, completed=shards)
    for shard in workers.map(_pack_shard, context, plans):
        shards[shard.name] = shard
        done += shard.images
        progress.update(images=done)
        logger.info("packed %d of %d images", done, total)
    return {split: [shards[name] for name in names[split]] for split in SPLITS}


def _shard_names(split: str, counts: Mapping[tuple[str, str], int], shard_images: int) -> list[str]:
    images = sum(count for (_, image_split), count in counts.items() if image_split == split)
    return [f"{split}-{number:05}.tar" for number in range(math.ceil(images / shard_images))]


def _find_completed_shards(context: PackContext, names: Iterable[str]) -> dict[str, Shard]:
    shards = {}
    for name in names:
        shard = context.resume.find_shard(context.version, name)
        if shard is not None:
            shards[name] = shard
            logger.info("%s was written by an earlier run", name)
    return shards


def _plan_shards(
    samples: SampleQueries, names: Mapping[str, Sequence[str]], *, shard_images: int, completed: Collection[str]
) -> Iterator[_ShardPlan]:
    # The collection grows while the plans are consumed.
    skipped = frozenset(completed)
    for split, shard_names in names.items():
        numbered = enumerate(samples.shuffled(split))
        for name in shard_names:
            chunk = islice(numbered, shard_images)
            if name in skipped:
                deque(chunk, maxlen=0)
            else:
                yield _ShardPlan(name, list(chunk))


def _pack_shard(context: PackContext, plan: _ShardPlan) -> Shard:
    """Write one shard, and save that it is complete."""
    images = map_reads(lambda item: _read_image(context, *item), plan.samples, context.sources)
    shard = write_shard(images, plan.name, target=context.target, folder=context.version)
    context.resume.save_shard(context.version, shard)
    return shard


def _read_image(context: PackContext, number: int, sample: Sample) -> bytes:
    """Return an image as tar entries.

    Raises:
        Unavailable: the image changed since it was inspected.
    """
    try:
        data = read_listed_file(context.sources[sample.source], sample.key)
    except DamagedFile as error:
        raise Unavailable("SourceChanged", f"{sample.key} cannot be read any more: {error}") from error
    if hashlib.sha256(data).digest() != sample.sha256:
        raise Unavailable("SourceChanged", f"{sample.key} changed while the dataset was being prepared")
    class_index = context.class_indices[sample.class_name]
    return encode_image(number, data, extension=sample.extension, class_index=class_index, key=sample.key)
