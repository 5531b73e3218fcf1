"""What people see of a version in a browser: one HTML page that needs nothing from outside, pictures inside."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bloomery_trainer import pages
from bloomery_trainer.config import PrepareConfig
from bloomery_trainer.prepare.file_table import Index, Sample
from bloomery_trainer.prepare.inspect import read
from bloomery_trainer.prepare.layouts import SPLITS
from bloomery_trainer.prepare.manifest import IGNORED, LISTED
from bloomery_trainer.prepare.rules import FEW_IMAGES
from bloomery_trainer.prepare.sources.base import Source, side_by_side
from bloomery_trainer.prepare.sources.download import without_query

log = logging.getLogger(__name__)

_EACH = 6
_THUMBNAILS = 600
_SIDE = 96
_BYTES = 4 * 1024 * 1024
_CLASSES = 2000
"""Rows and pictures are shown for so many classes; only without rules there can be more."""


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


def render(index: Index, sources: Sequence[Source], manifest: Mapping[str, Any], config: PrepareConfig) -> str:
    """The page of a version."""
    rows = _rows(manifest, _thumbnails(index, sources, manifest["classes"][:_CLASSES]))
    used = [split for split in SPLITS if split in manifest["shards"]]
    return _ENVIRONMENT.get_template("page.html.j2").render(
        title=config.display_name or f"{config.namespace}/{config.name}",
        config=config,
        manifest=manifest,
        rows=rows,
        splits=used,
        totals={split: sum(counts[split] for counts in manifest["counts"].values()) for split in used},
        images=sum(sum(counts.values()) for counts in manifest["counts"].values()),
        ignored=sum(manifest["ignoredCounts"].values()),
        sources=[(without_query(config.source.uri), None)]
        + [(without_query(addition.uri), addition.class_name) for addition in config.append],
        all_ignored=IGNORED,
        listed=LISTED,
    )


def _rows(manifest: Mapping[str, Any], thumbnails: Mapping[str, Sequence[Thumbnail]]) -> list[ClassRow]:
    counts = {name: manifest["counts"][name] for name in manifest["classes"][:_CLASSES]}
    most = max(sum(numbers.values()) for numbers in counts.values())
    return [
        ClassRow(
            name=name,
            counts=numbers,
            images=(images := sum(numbers.values())),
            share=images / most,
            few=images < FEW_IMAGES,
            thumbnails=tuple(thumbnails.get(name, ())),
        )
        for name, numbers in counts.items()
    ]


def _thumbnails(index: Index, sources: Sequence[Source], classes: Sequence[str]) -> dict[str, list[Thumbnail]]:
    """A few pictures of each class; fewer, the more classes there are."""
    each = max(1, min(_EACH, _THUMBNAILS // max(1, len(classes))))
    samples = (sample for name in classes for sample in index.some(name, each))
    pictures = side_by_side(lambda sample: (sample, _thumbnail(sources, sample)), samples, sources)
    found: dict[str, list[Thumbnail]] = {}
    for sample, thumbnail in _within(pictures, _BYTES):
        found.setdefault(sample.class_name, []).append(thumbnail)
    return found


def _within(pictures: Iterator[tuple[Sample, Thumbnail | None]], size: int) -> Iterator[tuple[Sample, Thumbnail]]:
    for sample, thumbnail in pictures:
        if thumbnail is not None and (size := size - len(thumbnail.source)) >= 0:
            yield sample, thumbnail


def _thumbnail(sources: Sequence[Source], sample: Sample) -> Thumbnail | None:
    try:
        picture = pages.thumbnail(read(sources[sample.source], sample.key), side=_SIDE)
    except Exception as error:  # a picture less is no reason to have no dataset
        log.info("no thumbnail of %s: %s", sample.key, error)
        return None
    return Thumbnail(picture, sample.key)


_ENVIRONMENT = pages.environment("bloomery_trainer.prepare.report")
