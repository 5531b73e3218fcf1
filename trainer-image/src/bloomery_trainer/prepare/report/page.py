"""The report of a dataset version: one HTML page that loads nothing from elsewhere, with its pictures inside."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bloomery_model.sources.base import Source, map_reads, read_listed_file
from bloomery_model.sources.download import without_query
from bloomery_model.split_folders import SPLITS
from bloomery_trainer import pages
from bloomery_trainer.config import PrepareConfig
from bloomery_trainer.prepare.file_table import FileTable, Sample, SampleQueries
from bloomery_trainer.prepare.manifest import IGNORED_NAME, MAX_LISTED_FILES, QUALITY_NAME
from bloomery_trainer.prepare.quality import is_conflict, list_leaks
from bloomery_trainer.prepare.quality_queries import Picture, QualityQueries
from bloomery_trainer.prepare.rules import FEW_IMAGES

logger = logging.getLogger(__name__)

_MAX_CLASSES = 2000
"""Classes with a row and pictures; only without rules there can be more."""

_MAX_CLASS_THUMBNAILS = 6
_MAX_THUMBNAILS = 600
_MAX_THUMBNAIL_BYTES = 4 * 1024 * 1024
"""Size of all thumbnails together, as data URIs."""

_THUMBNAIL_SIDE = 96

_MAX_GROUPS = 40
_MAX_GROUP_PICTURES = 3
_MAX_ODD_PICTURES = 40
_MAX_FINDING_BYTES = 2 * 1024 * 1024
"""Size of the thumbnails of all findings together, as data URIs."""


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


@dataclass(frozen=True)
class FindingPicture:
    """One image of a finding; without a thumbnail where there are too many."""

    picture: Picture
    thumbnail: Thumbnail | None


@dataclass(frozen=True)
class Finding:
    """Images that belong together: copies, near copies, or one odd picture.

    Attributes:
        pictures: the first of them.
        hidden: number of further ones.
        labels: what is to say about them.
    """

    pictures: Sequence[FindingPicture]
    hidden: int
    labels: Sequence[str]


@dataclass(frozen=True)
class FindingSection:
    """The findings of one kind.

    Attributes:
        title: the heading.
        count: number of groups or pictures.
        findings: the first of them.
    """

    title: str
    count: int
    findings: Sequence[Finding]


def render_page(files: FileTable, sources: Sequence[Source], manifest: Mapping[str, Any], config: PrepareConfig) -> str:
    """Return the page of a version."""
    thumbnails = _make_thumbnails(files.samples, sources, manifest["classes"][:_MAX_CLASSES])
    splits = [split for split in SPLITS if split in manifest["shards"]]
    return _ENVIRONMENT.get_template("page.html.j2").render(
        title=config.display_name or f"{config.namespace}/{config.name}",
        config=config,
        manifest=manifest,
        rows=_build_rows(manifest, thumbnails),
        sections=_build_sections(files.quality, sources),
        all_findings=QUALITY_NAME,
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


def _build_sections(quality: QualityQueries, sources: Sequence[Source]) -> list[FindingSection]:
    """Return copies, near copies and odd pictures; those that cross a class or a split come first."""
    renderer = _FindingRenderer(sources)
    sections = []
    for title, groups in (("Copies", quality.copies), ("Near copies", quality.near_copies)):
        first = heapq.nsmallest(_MAX_GROUPS, groups(), key=lambda group: not _label_group(group))
        findings = [renderer.render(group, _label_group(group)) for group in first]
        sections.append(FindingSection(title, sum(1 for _ in groups()), findings))
    odd = heapq.nsmallest(_MAX_ODD_PICTURES, quality.odd_pictures(), key=lambda entry: min(entry[1].values()))
    findings = [renderer.render([picture], _label_issues(issues)) for picture, issues in odd]
    sections.append(FindingSection("Odd pictures", sum(1 for _ in quality.odd_pictures()), findings))
    return [section for section in sections if section.count]


def _label_group(group: Sequence[Picture]) -> list[str]:
    conflict = ["two classes"] if is_conflict(group) else []
    return [*conflict, *(["train and held out"] if list_leaks(group) else [])]


def _label_issues(issues: Mapping[str, float]) -> list[str]:
    return [f"{issue} {score:.3f}" for issue, score in issues.items()]


class _FindingRenderer:
    """Makes the thumbnails of findings, up to a size of all of them together."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self._left_bytes = _MAX_FINDING_BYTES

    def render(self, pictures: Sequence[Picture], labels: Sequence[str]) -> Finding:
        """Return a finding with the thumbnails of its first pictures."""
        shown = [FindingPicture(picture, self._make(picture)) for picture in pictures[:_MAX_GROUP_PICTURES]]
        return Finding(shown, len(pictures) - len(shown), labels)

    def _make(self, picture: Picture) -> Thumbnail | None:
        if self._left_bytes <= 0:
            return None
        thumbnail = _make_thumbnail(self._sources, picture)
        self._left_bytes -= len(thumbnail.source) if thumbnail else 0
        return thumbnail


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


def _make_thumbnail(sources: Sequence[Source], sample: Sample | Picture) -> Thumbnail | None:
    try:
        data = read_listed_file(sources[sample.source], sample.key)
        return Thumbnail(pages.thumbnail(data, side=_THUMBNAIL_SIDE), sample.key)
    except Exception as error:  # the dataset is complete without a thumbnail
        logger.info("no thumbnail of %s: %s", sample.key, error)
        return None


_ENVIRONMENT = pages.environment("bloomery_trainer.prepare.report")
