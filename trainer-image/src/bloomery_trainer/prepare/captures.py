"""Captures of a service as a source: their true labels, and the answers that are trusted in place of one."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

from pydantic import ValidationError

from bloomery_model import EXTENSIONS
from bloomery_model.capture import LABEL_SUFFIX, MAX_DOCUMENT_BYTES, RECORD_SUFFIX, CaptureRecord, TrueLabel
from bloomery_model.file_names import file_extension
from bloomery_trainer.class_names import normalize_class_name
from bloomery_trainer.config import Rules
from bloomery_trainer.prepare.file_table import Assignment, ClassQueries, ListingQueries, PendingFile
from bloomery_trainer.prepare.rules import Violation

_IMAGE_EXTENSIONS = tuple(EXTENSIONS)


def attach_documents(
    listing: ListingQueries, number: int, trust_above: float | None
) -> Callable[[PendingFile], Assignment]:
    """Attach to each captured image the document with its class; return the function that assigns a file.

    Args:
        listing: the listed files.
        number: of the source.
        trust_above: the score above which an answer counts as a label; None: only true labels count.
    """
    listing.attach_captures(
        number, _IMAGE_EXTENSIONS, with_records=trust_above is not None, max_bytes=MAX_DOCUMENT_BYTES
    )
    missing = "an image without a true label"
    missing += "; trustAbove takes some without" if trust_above is None else ", and without a record of its answer"

    def assign(file: PendingFile) -> Assignment:
        if file.label is not None:
            return Assignment(file.id)
        extension = file_extension(file.path)
        if extension == "json":
            return Assignment(file.id, reason="NoImage", detail="a document of a capture without its image")
        if extension in _IMAGE_EXTENSIONS:
            return Assignment(file.id, reason="NoLabel", detail=missing)
        return Assignment(file.id, reason="Format", detail="neither an image nor a document of a capture")

    return assign


def summarise_document(path: str, content: bytes) -> bytes:
    """Return what the class of an image is read from, once all names of classes are known.

    Args:
        path: of the document; label texts of other sources stay as they are.
        content: of the document, which may have the scores of thousands of classes.

    Returns:
        A small JSON object; empty for a document that cannot be read.
    """
    if not path.endswith(RECORD_SUFFIX):
        return content
    try:
        if path.endswith(LABEL_SUFFIX):
            return json.dumps({"label": TrueLabel.model_validate_json(content).label}).encode()
        record = CaptureRecord.model_validate_json(content)
    except ValidationError:
        return b""
    return json.dumps({"predicted": record.predicted, "score": record.confidence, "unknown": record.unknown}).encode()


def capture_reader(
    trust_above: float | None, check: Callable[[str, Collection[str]], str | Violation], renamed: Collection[str]
) -> Callable[[bytes], str | Violation]:
    """Return the function that reads the class of a capture from the summary of its document.

    Args:
        trust_above: the score above which an answer counts as a label.
        check: returns a class name, or what is wrong with it.
        renamed: names that ``rename`` replaces.
    """

    def read(summary: bytes) -> str | Violation:
        if not summary:
            return Violation("BadLabel", "the document with its class is damaged")
        document = json.loads(summary)
        distrust = None if "label" in document else _distrust(document, trust_above)
        if distrust is not None:
            return Violation("NoLabel", f"it has no true label, and {distrust}")
        name = document["label"] if "label" in document else document["predicted"]
        return check(normalize_class_name(name).strip(), renamed)

    return read


def leave_out_small_captures(classes: ClassQueries, limits: Rules) -> list[str]:
    """Leave out new classes that feedback named for too few images yet; return sentences for people.

    A service's clients name classes: one slip of theirs must not end every later preparation.
    """
    if not limits.check:
        return []
    return [
        f"only captures have the class {name!r}, and {count} of them: it is left out until there are "
        f"{limits.min_images_per_class} (rules.minImagesPerClass)"
        for name, count in classes.leave_out_small_captures(limits.min_images_per_class).items()
    ]


def _distrust(document: Mapping[str, Any], trust_above: float | None) -> str | None:
    """Return why an answer does not count as a label; None if it does."""
    if document.get("unknown"):
        return "the service answered that it does not know its class"
    score = document["score"]
    return None if trust_above is not None and score > trust_above else f"its score {score:g} is not above trustAbove"
