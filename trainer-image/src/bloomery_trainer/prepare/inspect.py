"""Reads every image once, many at a time, and checks it against the rules; the results are saved as they arrive."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

from bloomery_model.file_names import file_extension
from bloomery_model.sources.base import DamagedFile, Source, map_reads, read_listed_file
from bloomery_trainer.config import Rules
from bloomery_trainer.prepare import rules
from bloomery_trainer.prepare.captures import summarise_document
from bloomery_trainer.prepare.file_table import Inspection, InspectionQueries, PendingFile
from bloomery_trainer.prepare.resume import ResumeState
from bloomery_trainer.prepare.rules import Violation
from bloomery_trainer.prepare.worker_pool import WorkerPool
from bloomery_trainer.progress_server import Progress

logger = logging.getLogger(__name__)

_CHUNK_IMAGES = 64
"""Images that a worker gets at a time: handing over a single one costs as much as inspecting a small image."""

_SAVE_IMAGES = 1000
_SAVE_SECONDS = 15.0


@dataclass(frozen=True)
class InspectionContext:
    """The state that all workers share."""

    sources: Sequence[Source]
    limits: Rules


def inspect_files(
    queries: InspectionQueries,
    context: InspectionContext,
    *,
    workers: WorkerPool,
    resume: ResumeState,
    progress: Progress,
) -> None:
    """Inspect every pending file of which no earlier run has saved a result."""
    total = queries.count_pending()
    known = sum(queries.record(filter(_is_complete, inspections)) for inspections in resume.inspections())
    if known:
        logger.info("%d of %d images were checked by an earlier run and are not read again", known, total)
    progress.update(stage="reading", images=known, total=total)
    unsaved: list[Inspection] = []
    saved_at, has_saved = time.monotonic(), False
    for done, inspection in enumerate(_inspect_pending(queries, context, workers), start=known + 1):
        unsaved.append(inspection)
        progress.update(images=done)
        if len(unsaved) >= _SAVE_IMAGES or time.monotonic() - saved_at > _SAVE_SECONDS:
            queries.record(unsaved)
            resume.save_inspections(unsaved)
            logger.info("checked %d of %d images", done, total)
            unsaved, saved_at, has_saved = [], time.monotonic(), True
    queries.record(unsaved)
    # Results that take a few seconds are not worth a file.
    if unsaved and (has_saved or known):
        resume.save_inspections(unsaved)
    logger.info("checked %d of %d images", total, total)


def _is_complete(inspection: Inspection) -> bool:
    """Whether a result has all that is used today: those of earlier releases have no fingerprints."""
    return inspection.sha256 is None or inspection.fingerprint is not None


def _inspect_pending(
    queries: InspectionQueries, context: InspectionContext, workers: WorkerPool
) -> Iterator[Inspection]:
    pending = queries.pending()
    chunks = iter(lambda: list(islice(pending, _CHUNK_IMAGES)), [])
    return chain.from_iterable(workers.map(_inspect_chunk, context, chunks))


def _inspect_chunk(context: InspectionContext, files: Sequence[PendingFile]) -> list[Inspection]:
    sources = context.sources
    return list(map_reads(lambda file: inspect_file(sources[file.source], file, context.limits), files, sources))


def inspect_file(source: Source, file: PendingFile, limits: Rules) -> Inspection:
    """Read one image, and its label text if it has one, and check the image."""
    label_text = None
    if file.label is not None:
        try:
            label_text = read_listed_file(source, file.label)
        except DamagedFile as error:
            return _ignore(file, Violation("BadLabel", f"its label text cannot be read: {error}"))
        label_text = summarise_document(file.label, label_text)
    violation = rules.check_listing(file.path, file.size, limits)
    if violation is not None:
        return _ignore(file, violation, label_text)
    try:
        data = read_listed_file(source, file.path)
    except DamagedFile as error:
        return _ignore(file, Violation(error.reason, str(error)), label_text)
    image = rules.check_content(data, limits, has_extension=bool(file_extension(file.path)))
    if isinstance(image, Violation):
        return _ignore(file, image, label_text)
    return Inspection(
        *file[1:5],
        sha256=hashlib.sha256(data).digest(),
        extension=image.extension,
        class_name=None,
        reason=None,
        detail=None,
        label_text=label_text,
        fingerprint=image.fingerprint.to_bytes(),
        issues=json.dumps(image.issues) if image.issues else None,
    )


def _ignore(file: PendingFile, violation: Violation, label_text: bytes | None = None) -> Inspection:
    return Inspection(file.source, file.path, file.size, file.stamp, None, None, None, *violation, label_text)
