"""The `prepare` command: list, check, split, pack; twice over the images, never all of them in memory."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from bloomery_trainer.config import PrepareConfig, Rules
from bloomery_trainer.errors import BadData, Unavailable
from bloomery_trainer.parallel import map_in_order
from bloomery_trainer.prepare import manifest as manifests
from bloomery_trainer.prepare import rules
from bloomery_trainer.prepare.listing import SPLITS, Candidate, Ignored, Listing, read_layout, refuse_bad_names
from bloomery_trainer.prepare.shards import Packed, Shard, write_shards
from bloomery_trainer.prepare.split import Sample, assign, shuffled
from bloomery_trainer.progress import Progress
from bloomery_trainer.storage import Folder, S3Access, open_folder, source_access

log = logging.getLogger(__name__)

READERS = 16
"""Images read at once: enough to hide a store's latency, few enough to hold at most 2 × 16 of them."""

_NEWS = 1000


def prepare(config: PrepareConfig, progress: Progress) -> dict[str, Any]:
    """Makes the dataset version that the source's content gives, and returns its summary.

    A version that exists is left as it is. Raises BadData where the images break a rule that all must keep.
    """
    progress.update(stage="listing", images=0, total=0)
    source = open_folder(config.source.uri, source_access(os.environ))
    target = open_folder(config.output.uri, S3Access.from_environment(os.environ), create=True)
    target.require()
    samples, ignored = _checked(source, _listed(source, config), config, progress)
    samples = assign(samples, config.split)
    _refuse_no_validation(samples)
    version = manifests.version_of(samples, manifests.settings(config))
    uri = f"{config.output.uri.rstrip('/')}/{version}"
    existing = target.read_if_there(f"{version}/{manifests.NAME}")
    if existing is not None:
        log.info("version %s exists already, nothing to write", version[:16])
        return manifests.summary(json.loads(existing), uri)
    shards = _packed(source, target, samples, version=version, config=config, progress=progress)
    manifest = _manifest(version, samples, shards, ignored=ignored, config=config)
    target.write(f"{version}/{manifests.NAME}", json.dumps(manifest, ensure_ascii=False, indent=1).encode())
    log.info("version %s is ready: %d images in %d classes", version[:16], len(samples), len(manifest["classes"]))
    return manifests.summary(manifest, uri)


def _manifest(
    version: str,
    samples: Sequence[Sample],
    shards: Mapping[str, Sequence[Shard]],
    *,
    ignored: Sequence[Ignored],
    config: PrepareConfig,
) -> dict[str, Any]:
    copies = len(samples) - len({sample.sha256 for sample in samples})
    return manifests.build(
        version=version,
        settings=manifests.settings(config),
        samples=samples,
        shards=shards,
        ignored=ignored,
        warnings=rules.warnings(Counter(sample.class_name for sample in samples), copies),
    )


def _listed(source: Folder, config: PrepareConfig) -> Listing:
    listing = read_layout(source.list(), config.source.layout)
    if not listing.candidates:
        found = "are loose files but no class folders" if listing.ignored else "is nothing"
        raise BadData("NoImages", f"there {found} under {source.uri}")
    names = {candidate.class_name for candidate in listing.candidates}
    refuse_bad_names(names)
    log.info("%d files in %d class folders under %s", len(listing.candidates), len(names), source.uri)
    return listing


def _checked(
    source: Folder, listing: Listing, config: PrepareConfig, progress: Progress
) -> tuple[list[Sample], list[Ignored]]:
    total = len(listing.candidates)
    progress.update(stage="reading", images=0, total=total)
    samples: list[Sample] = []
    ignored = list(listing.ignored)
    reasons: dict[str, Counter[str]] = defaultdict(Counter)
    looks = map_in_order(lambda c: _look(source, c, config.rules), listing.candidates, threads=READERS)
    for done, (candidate, look) in enumerate(zip(listing.candidates, looks, strict=True), start=1):
        if isinstance(look, Sample):
            samples.append(look)
        else:
            ignored.append(look)
            reasons[candidate.class_name][look.reason] += 1
        _tell(progress, done, total, "checked")
    counts = Counter(sample.class_name for sample in samples)
    if config.rules.check:
        counts.update(dict.fromkeys((candidate.class_name for candidate in listing.candidates), 0))
    if ignored:
        log.info("%d files are ignored: %s", len(ignored), dict(Counter(i.reason for i in ignored)))
    rules.refuse_bad_classes(counts, reasons, config.rules)
    return samples, sorted(ignored, key=lambda entry: entry.key)


def _look(source: Folder, candidate: Candidate, limits: Rules) -> Sample | Ignored:
    broken = rules.by_listing(candidate.key, candidate.size, limits)
    if broken is not None:
        return Ignored(candidate.key, *broken)
    data = _read(source, candidate.key)
    found = rules.by_content(data, limits)
    if isinstance(found, rules.Broken):
        return Ignored(candidate.key, *found)
    digest = hashlib.sha256(data).digest()
    return Sample(candidate.key, candidate.class_name, candidate.split, digest, found)


def _refuse_no_validation(samples: Sequence[Sample]) -> None:
    if not any(sample.split == "validation" for sample in samples):
        raise BadData(
            "NoValidation", f"none of the {len(samples)} images is left for validation; add images or raise its share"
        )


def _packed(
    source: Folder,
    target: Folder,
    samples: Sequence[Sample],
    *,
    version: str,
    config: PrepareConfig,
    progress: Progress,
) -> dict[str, list[Shard]]:
    classes = {name: index for index, name in enumerate(sorted({sample.class_name for sample in samples}))}
    progress.update(stage="writing", images=0, total=len(samples))
    done = 0
    shards = {}

    def counted(images: Iterable[Packed]) -> Iterator[Packed]:
        nonlocal done
        for image in images:
            yield image
            done += 1
            _tell(progress, done, len(samples), "packed")

    for split in SPLITS:
        members = shuffled((sample for sample in samples if sample.split == split), config.split.seed)
        images = map_in_order(
            lambda item: _pack(source, item[0], item[1], classes), enumerate(members), threads=READERS
        )
        shards[split] = write_shards(
            counted(images), size=config.shards.images, split=split, target=target, below=version
        )
    return shards


def _pack(source: Folder, index: int, sample: Sample, classes: dict[str, int]) -> Packed:
    data = _read(source, sample.key)
    if hashlib.sha256(data).digest() != sample.sha256:
        raise Unavailable("SourceChanged", f"{sample.key} changed while the dataset was being prepared")
    return Packed(index, sample.extension, classes[sample.class_name], sample.key, data)


def _read(source: Folder, key: str) -> bytes:
    try:
        return source.read(key)
    except FileNotFoundError as error:
        raise Unavailable("SourceChanged", f"{key} went away while the dataset was being prepared") from error


def _tell(progress: Progress, done: int, total: int, what: str) -> None:
    progress.update(images=done)
    if done % _NEWS == 0 or done == total:
        log.info("%s %d of %d images", what, done, total)
