"""Packing the images of each split into shards; those that an earlier run has finished are left as they are."""

from __future__ import annotations

import hashlib
import logging
import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

from bloomery_trainer.errors import Unavailable
from bloomery_trainer.parallel import map_in_order
from bloomery_trainer.prepare.check import read
from bloomery_trainer.prepare.index import Index, Sample
from bloomery_trainer.prepare.listing import SPLITS
from bloomery_trainer.prepare.shards import Shard, entries, write_shard
from bloomery_trainer.prepare.sources import DamagedFile, Source, readers
from bloomery_trainer.prepare.work import Work
from bloomery_trainer.progress import Progress
from bloomery_trainer.storage import Folder

log = logging.getLogger(__name__)


def pack(
    index: Index,
    sources: Sequence[Source],
    target: Folder,
    *,
    version: str,
    size: int,
    work: Work,
    progress: Progress,
) -> dict[str, list[Shard]]:
    """Writes the shards of all splits, `size` images each."""
    counts = index.counts()
    classes = {name: number for number, name in enumerate(sorted({name for name, _ in counts}))}
    total, done = sum(counts.values()), 0
    progress.update(stage="writing", images=0, total=total)
    shards: dict[str, list[Shard]] = {split: [] for split in SPLITS}
    for split, finished in shards.items():
        samples = enumerate(index.shuffled(split))
        images = sum(count for (_, name), count in counts.items() if name == split)
        for number in range(math.ceil(images / size)):
            name, chunk = f"{split}-{number:05}.tar", islice(samples, size)
            shard = work.shard(version, name)
            if shard is None:
                shard = write_shard(_packed(sources, chunk, classes), name, target=target, below=version)
                work.save_shard(version, shard)
            else:
                log.info("%s was written by an earlier run", name)
                deque(chunk, maxlen=0)
            finished.append(shard)
            done += shard.images
            progress.update(images=done)
            log.info("packed %d of %d images", done, total)
    return shards


def _packed(
    sources: Sequence[Source], samples: Iterable[tuple[int, Sample]], classes: Mapping[str, int]
) -> Iterator[bytes]:
    return map_in_order(lambda item: _read(sources, *item, classes), samples, threads=readers(sources))


def _read(sources: Sequence[Source], number: int, sample: Sample, classes: Mapping[str, int]) -> bytes:
    try:
        data = read(sources[sample.source], sample.key)
    except DamagedFile as error:
        raise Unavailable("SourceChanged", f"{sample.key} cannot be read any more: {error}") from error
    if hashlib.sha256(data).digest() != sample.sha256:
        raise Unavailable("SourceChanged", f"{sample.key} changed while the dataset was being prepared")
    return entries(number, data, extension=sample.extension, label=classes[sample.class_name], key=sample.key)
