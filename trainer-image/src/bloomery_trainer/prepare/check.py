"""Looking into every image once, many at a time; what was found is kept as it comes in."""

from __future__ import annotations

import hashlib
import logging
import time
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

from bloomery_trainer.config import Rules
from bloomery_trainer.errors import Unavailable
from bloomery_trainer.prepare import rules
from bloomery_trainer.prepare.crew import Crew
from bloomery_trainer.prepare.index import Index, Looked, Pending
from bloomery_trainer.prepare.sources import DamagedFile, Source, side_by_side
from bloomery_trainer.prepare.work import Work
from bloomery_trainer.progress_server import Progress

log = logging.getLogger(__name__)

_TOGETHER = 64
"""Images for each errand: handing out single ones costs as much as a small image."""

_KEEP_IMAGES = 1000
_KEEP_SECONDS = 15.0


@dataclass(frozen=True)
class Checking:
    """What it takes to judge an image."""

    sources: Sequence[Source]
    limits: Rules


def check_images(index: Index, checking: Checking, *, crew: Crew, work: Work, progress: Progress) -> None:
    """Looks into every file of the index that no earlier run has looked into."""
    total = index.count_pending()
    known = sum(index.record(looks) for looks in work.checks())
    if known:
        log.info("%d of %d images were checked by an earlier run and are not read again", known, total)
    progress.update(stage="reading", images=known, total=total)
    fresh: list[Looked] = []
    kept_at, kept = time.monotonic(), False
    for done, found in enumerate(_looks(index, checking, crew), start=known + 1):
        fresh.append(found)
        progress.update(images=done)
        if len(fresh) >= _KEEP_IMAGES or time.monotonic() - kept_at > _KEEP_SECONDS:
            index.record(fresh)
            work.save_checks(fresh)
            log.info("checked %d of %d images", done, total)
            fresh, kept_at, kept = [], time.monotonic(), True
    index.record(fresh)
    # A set that is read in seconds is not worth a work file.
    if fresh and (kept or known):
        work.save_checks(fresh)
    log.info("checked %d of %d images", total, total)


def _looks(index: Index, checking: Checking, crew: Crew) -> Iterator[Looked]:
    files = index.pending()
    groups = iter(lambda: list(islice(files, _TOGETHER)), [])
    return chain.from_iterable(crew.map_in_order(look_at_all, checking, groups))


def look_at_all(checking: Checking, files: Sequence[Pending]) -> list[Looked]:
    """Judges some images."""
    sources = checking.sources
    return list(side_by_side(lambda file: look(sources[file.source], file, checking.limits), files, sources))


def look(source: Source, file: Pending, limits: Rules) -> Looked:
    """Reads one image, and the text with its class where that is how classes are given, and judges it."""
    class_name = None
    if file.label is not None:
        label = read_label(source, file.label)
        if isinstance(label, rules.Broken):
            return _ignored(file, label)
        class_name = label
    broken = rules.by_listing(file.path, file.size, limits)
    if broken is not None:
        return _ignored(file, broken, class_name)
    try:
        data = read(source, file.path)
    except DamagedFile as error:
        return _ignored(file, rules.Broken("Corrupt", str(error)), class_name)
    found = rules.by_content(data, limits)
    if isinstance(found, rules.Broken):
        return _ignored(file, found, class_name)
    digest = hashlib.sha256(data).digest()
    return Looked(file.source, file.path, file.size, file.stamp, digest, found, class_name, None, None)


def read_label(source: Source, path: str) -> str | rules.Broken:
    """The class that a label text names."""
    try:
        text = read(source, path).decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return rules.Broken("BadLabel", "its label text is not UTF-8")
    except DamagedFile as error:
        return rules.Broken("BadLabel", f"its label text cannot be read: {error}")
    if not text:
        return rules.Broken("BadLabel", "its label text is empty")
    if len(text.splitlines()) > 1:
        return rules.Broken("BadLabel", "its label text has several lines")
    return unicodedata.normalize("NFC", text)


def read(source: Source, path: str) -> bytes:
    """The bytes of a file that the listing has named."""
    try:
        return source.read(path)
    except FileNotFoundError as error:
        raise Unavailable("SourceChanged", f"{path} went away while the dataset was being prepared") from error


def _ignored(file: Pending, broken: rules.Broken, class_name: str | None = None) -> Looked:
    return Looked(file.source, file.path, file.size, file.stamp, None, None, class_name, *broken)
