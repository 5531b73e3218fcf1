"""The report of a dataset version: one HTML page that loads nothing from elsewhere, with its pictures inside."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bloomery_trainer import pages
from bloomery_trainer.config import PrepareConfig
from bloomery_trainer.prepare.file_table import FileTable, Sample, SampleQueries
from bloomery_trainer.prepare.manifest import IGNORED_NAME, MAX_LISTED_FILES
from bloomery_trainer.prepare.rules import FEW_IMAGES
from bloomery_trainer.prepare.sources.base import Source, map_reads, read_listed_file
from bloomery_trainer.prepare.sources.download import without_query
from bloomery_trainer.prepare.split_folders import SPLITS

logger = logging.getLogger(__name__)

_MAX_CLASSES = 2000
"""Classes with a row and pictures; only without rules there can be more."""

_MAX_CLASS_THUMBNAILS = 6
_MAX_THUMBNAILS = 600
_MAX_THUMBNAIL_BYTES = 4 * 1024 * 1024
"""Size of all thumbnails together, as data URIs."""

_THUMBNAIL_SIDE = 96


@dataclass(frozen=True)
class Thumbnail:
    """A small picture of one image, as a data URI."""

    source: str
    key: str


@dataclass(frozen=True)
class ClassRow:
    """One class of the page."""

    name: str
    counts: Mapping[str, int]
    images: int
    share: float
    few: bool
    thumbnails: tuple[Thumbnail, ...]


def render_page(
    files: FileTable, sources: Sequence[Source], manifest: Mapping[str, Any], config: PrepareConfig
) -> str:
    """Return the page of a version."""
    thumbnails = _make_thumbnails(files.samples, sources, manifest["classes"][:_MAX_CLASSES])
    splits = [split for split in SPLITS if split in manifest["shards"]]
    return _ENVIRONMENT.get_template("page.html.j2").render(
        title=config.display_name or f"{config.namespace}/{config.name}",
        config=config,
        manifest=manifest,
        rows=_build_rows(manifest, thumbnails),
        splits=splits,
        totals={split: sum(counts[split] for counts in manifest["counts"].values()) for split in splits},
        images=sum(sum(counts.values()) for counts in manifest["counts"].values()),
        ignored=sum(manifest["ignoredCounts"].values()),
        sources=[(without_query(config.source.uri), None)]
        + [(without_query(addition.uri), addition.class_name) for addition in config.append],
        all_ignored=IGNORED_NAME,
        listed=MAX_LISTED_FILES,
    )


def _build_rows(manifest: Mapping[str, Any], thumbnails: Mapping[str, Sequence[Thumbnail]]) -> list[ClassRow]:
    class_counts = {name: manifest["counts"][name] for name in manifest["classes"][:_MAX_CLASSES]}
    most = max(sum(counts.values()) for counts in class_counts.values())
    return [
        ClassRow(
            name=name,
            counts=counts,
            images=(images := sum(counts.values())),
            share=images / most,
            few=images < FEW_IMAGES,
            thumbnails=tuple(thumbnails.get(name, ())),
        )
        for name, counts in class_counts.items()
    ]


def _make_thumbnails(
    samples: SampleQueries, sources: Sequence[Source], classes: Sequence[str]
) -> dict[str, list[Thumbnail]]:
    """Return a few pictures of each class; the fewer, the more classes there are."""
    count = max(1, min(_MAX_CLASS_THUMBNAILS, _MAX_THUMBNAILS // max(1, len(classes))))
    examples = (sample for name in classes for sample in samples.examples(name, count))
    pictures = map_reads(lambda sample: (sample, _make_thumbnail(sources, sample)), examples, sources)
    thumbnails: dict[str, list[Thumbnail]] = {}
    for sample, thumbnail in _limit_size(pictures, _MAX_THUMBNAIL_BYTES):
        thumbnails.setdefault(sample.class_name, []).append(thumbnail)
    return thumbnails


def _limit_size(
    pictures: Iterator[tuple[Sample, Thumbnail | None]], max_bytes: int
) -> Iterator[tuple[Sample, Thumbnail]]:
    for sample, thumbnail in pictures:
        if thumbnail is not None and (max_bytes := max_bytes - len(thumbnail.source)) >= 0:
            yield sample, thumbnail


def _make_thumbnail(sources: Sequence[Source], sample: Sample) -> Thumbnail | None:
    try:
        data = read_listed_file(sources[sample.source], sample.key)
        return Thumbnail(pages.thumbnail(data, side=_THUMBNAIL_SIDE), sample.key)
    except Exception as error:  # the dataset is complete without a thumbnail
        logger.info("no thumbnail of %s: %s", sample.key, error)
        return None


_ENVIRONMENT = pages.environment("bloomery_trainer.prepare.report")
