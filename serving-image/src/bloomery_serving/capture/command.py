"""The commands ``captures list`` and ``captures delete``: JSON about a service's captures, for the plugin."""

from __future__ import annotations

import base64
import heapq
import io
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from PIL import Image

from bloomery_model import ImageError, decode
from bloomery_model.capture import CaptureRecord, TrueLabel
from bloomery_model.parallel import map_in_order
from bloomery_model.stores import StoreError
from bloomery_serving.capture.ids import BadIdError
from bloomery_serving.capture.store import CaptureStore
from bloomery_serving.errors import ModelError
from bloomery_serving.settings import read_settings

_READERS = 16
"""Reads at a time: enough to hide the latency of a store."""
_THUMBNAIL_SIDE = 256


@dataclass(frozen=True)
class LabelledCapture:
    """A capture with its true label, if somebody named it."""

    record: CaptureRecord
    label: TrueLabel | None

    @property
    def document(self) -> dict[str, Any]:
        """The capture as the commands print it."""
        record = self.record
        return {
            "id": record.id,
            "time": record.time.isoformat(timespec="seconds"),
            "predicted": record.predicted,
            "confidence": record.confidence,
            "unknown": record.unknown,
            "reason": record.reason,
            "variant": record.variant,
            "label": self.label.label if self.label else None,
        }


def run_list(*, days: int, first: int, pictures: bool) -> int:
    """Print the counts of the last days' captures, and the least certain ones without a label; return the exit code.

    Args:
        days: today is the first one.
        first: the number of captures.
        pictures: whether they have thumbnails.
    """
    return _run(lambda store: _summarise(store, days=days, first=first, pictures=pictures))


def run_delete(ids: Sequence[str]) -> int:
    """Delete captures; print for each whether it was there; return the exit code."""
    return _run(lambda store: [{"id": text, "deleted": store.delete(text)} for text in ids])


def _run(command: Callable[[CaptureStore], Any]) -> int:
    try:
        settings = read_settings()
        if not settings.capture_uri:
            return _fail("this pod captures nothing: set spec.capture, and wait until its pods are replaced")
        document = command(CaptureStore.of(settings, os.environ))
    except (BadIdError, ModelError, StoreError) as error:
        return _fail(str(error))
    print(json.dumps(document, ensure_ascii=False))
    return 0


def _fail(sentence: str) -> int:
    print(f"{sentence}.", file=sys.stderr)
    return 1


def _summarise(store: CaptureStore, *, days: int, first: int, pictures: bool) -> dict[str, Any]:
    today = datetime.now(UTC).date()
    captures = list(_read_all(store, (today - timedelta(days=number) for number in range(days))))
    open_captures = [capture for capture in captures if capture.label is None]
    unsure = heapq.nsmallest(first, open_captures, key=lambda capture: (capture.record.confidence, capture.record.id))
    return {
        "uri": store.uri,
        "days": days,
        "captures": len(captures),
        "labelled": len(captures) - len(open_captures),
        "reasons": dict(Counter(capture.record.reason for capture in captures)),
        "classes": _count_classes(captures),
        "leastCertain": [
            capture.document | ({"picture": _thumbnail(store, capture.record)} if pictures else {})
            for capture in unsure
        ],
    }


def _read_all(store: CaptureStore, days: Iterable[date]) -> Iterator[LabelledCapture]:
    def read(entry: tuple[str, bool]) -> LabelledCapture | None:
        prediction_id, has_label = entry
        record = store.read_record(prediction_id)
        if record is None:  # it was deleted meanwhile, or is damaged
            return None
        # Those of a week do not fit into memory with the scores of all classes.
        record = record.model_copy(update={"scores": {record.predicted: record.confidence}})
        return LabelledCapture(record, store.read_label(prediction_id) if has_label else None)

    entries = (entry for day in days for entry in store.list_ids(day))
    yield from filter(None, map_in_order(read, entries, threads=_READERS))


def _count_classes(captures: Sequence[LabelledCapture]) -> list[dict[str, Any]]:
    """Return the counts by predicted class: all, those with a label, and those with the same label."""
    captured = Counter(capture.record.predicted for capture in captures)
    labelled = Counter(capture.record.predicted for capture in captures if capture.label)
    correct = Counter(
        capture.record.predicted
        for capture in captures
        if capture.label and capture.label.label == capture.record.predicted
    )
    return [
        {"name": name, "captures": count, "labelled": labelled[name], "correct": correct[name]}
        for name, count in sorted(captured.items())
    ]


def _thumbnail(store: CaptureStore, record: CaptureRecord) -> str | None:
    """Return a data URI of a small JPEG; None if the image cannot be read."""
    data = store.read_image(record)
    if data is None:
        return None
    try:
        image = decode(data, min_side=_THUMBNAIL_SIDE)
    except ImageError:
        return None
    image.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
