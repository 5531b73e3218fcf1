"""Packing the images of each split into shards; those that an earlier run has finished are left as they are."""

from __future__ import annotations

import hashlib
import logging
import math
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice

from bloomery_trainer.errors import Unavailable
from bloomery_trainer.prepare.check import read
from bloomery_trainer.prepare.crew import Crew
from bloomery_trainer.prepare.index import Index, Sample
from bloomery_trainer.prepare.listing import SPLITS
from bloomery_trainer.prepare.shards import Shard, entries, write_shard
from bloomery_trainer.prepare.sources import DamagedFile, Source, side_by_side
from bloomery_trainer.prepare.work import Work
from bloomery_trainer.progress_server import Progress
from bloomery_trainer.storage import Folder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Packing:
    """What it takes to write a shard."""

    sources: Sequence[Source]
    target: Folder
    work: Work
    version: str
    classes: Mapping[str, int]


@dataclass(frozen=True)
class Plan:
    """A shard to be written: its images, each with its number in the split."""

    name: str
    samples: list[tuple[int, Sample]]


def pack(index: Index, packing: Packing, *, size: int, crew: Crew, progress: Progress) -> dict[str, list[Shard]]:
    """Writes the shards of all splits, `size` images each."""
    counts = index.counts()
    total, done = sum(counts.values()), 0
    progress.update(stage="writing", images=0, total=total)
    in_split = {split: sum(count for (_, name), count in counts.items() if name == split) for split in SPLITS}
    names = {split: [f"{split}-{n:05}.tar" for n in range(math.ceil(in_split[split] / size))] for split in SPLITS}
    known = _written_before(packing, chain.from_iterable(names.values()))
    done = sum(shard.images for shard in known.values())
    for shard in crew.map_in_order(pack_shard, packing, _plans(index, names, size=size, without=known)):
        known[shard.name] = shard
        done += shard.images
        progress.update(images=done)
        log.info("packed %d of %d images", done, total)
    return {split: [known[name] for name in names[split]] for split in SPLITS}


def pack_shard(packing: Packing, plan: Plan) -> Shard:
    """Writes one shard, and keeps that it is written."""
    images = side_by_side(lambda item: _read(packing, *item), plan.samples, packing.sources)
    shard = write_shard(images, plan.name, target=packing.target, below=packing.version)
    packing.work.save_shard(packing.version, shard)
    return shard


def _written_before(packing: Packing, names: Iterable[str]) -> dict[str, Shard]:
    found = ((name, packing.work.shard(packing.version, name)) for name in names)
    known = {name: shard for name, shard in found if shard is not None}
    for name in known:
        log.info("%s was written by an earlier run", name)
    return known


def _plans(index: Index, names: Mapping[str, Sequence[str]], *, size: int, without: Collection[str]) -> Iterator[Plan]:
    written = frozenset(without)
    for split, shards in names.items():
        samples = enumerate(index.shuffled(split))
        for name in shards:
            chunk = islice(samples, size)
            if name in written:
                deque(chunk, maxlen=0)
            else:
                yield Plan(name, list(chunk))


def _read(packing: Packing, number: int, sample: Sample) -> bytes:
    try:
        data = read(packing.sources[sample.source], sample.key)
    except DamagedFile as error:
        raise Unavailable("SourceChanged", f"{sample.key} cannot be read any more: {error}") from error
    if hashlib.sha256(data).digest() != sample.sha256:
        raise Unavailable("SourceChanged", f"{sample.key} changed while the dataset was being prepared")
    label = packing.classes[sample.class_name]
    return entries(number, data, extension=sample.extension, label=label, key=sample.key)
