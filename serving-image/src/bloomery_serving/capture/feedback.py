"""Feedback: the true labels of captured images, and the live accuracy that they show."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Literal

from prometheus_client import CollectorRegistry, Counter

from bloomery_model.capture import CaptureRecord, TrueLabel
from bloomery_model.stores import StoreError
from bloomery_serving.capture.ids import BadIdError
from bloomery_serving.capture.store import CaptureStore

MAX_LABEL_CHARACTERS = 256
"""The longest name of a class in a Dataset."""
_MAX_LISTED = 50
"""Classes that one message names."""

FeedbackCode = Literal["BadId", "BadLabel", "UnknownClass", "NotCaptured", "StoreUnavailable"]


class FeedbackError(Exception):
    """Feedback that is not taken; the message is a sentence."""

    def __init__(self, code: FeedbackCode, message: str) -> None:
        super().__init__(message)
        self.code: FeedbackCode = code


class LiveAccuracy:
    """Counters of labelled answers by variant and model: those that are right, and all.

    Only captures that were chosen by chance count, as others are the hard ones on purpose, and only those that were not
    answered as unknown.
    """

    def __init__(self, registry: CollectorRegistry, *, variant: str, digest: str) -> None:
        """``variant`` and ``digest`` are of this server and its model; feedback may be about another's answer."""
        labels = ["variant", "digest"]
        self._labelled = Counter(
            "bloomery_live_labelled", "Images of a random sample whose true class is known, by what answered.", labels,
            registry=registry,
        )  # fmt: skip
        self._correct = Counter(
            "bloomery_live_correct", "Those of bloomery_live_labelled that were answered with their true class.",
            labels, registry=registry,
        )  # fmt: skip
        for counter in (self._labelled, self._correct):
            counter.labels(variant, digest)

    def count(self, record: CaptureRecord, label: str) -> None:
        """Count the first true label of a capture."""
        if record.reason == "Random" and not record.unknown:
            answered_by = (record.variant, record.model.digest)
            self._labelled.labels(*answered_by).inc()
            if label == record.predicted:
                self._correct.labels(*answered_by).inc()


class FeedbackRecorder:
    """Writes true labels beside captures; safe from many threads at once.

    Each label is an object of its own that is written whole, so that no pod loses another's writes. Two labels of one
    image that arrive at the same moment may both count for live accuracy.
    """

    def __init__(self, store: CaptureStore, accuracy: LiveAccuracy) -> None:
        self._store = store
        self._accuracy = accuracy

    def record(self, prediction_id: str, label: str, *, key: str, is_new_class: bool = False) -> TrueLabel:
        """Write the true label of a capture, in place of the one before; return it.

        Args:
            prediction_id: of the answer.
            label: the class that the image has.
            key: the name of the sender's API key.
            is_new_class: whether the class need not be one of the model's.

        Raises:
            FeedbackError: the label is none, or the prediction was not captured.
        """
        prediction_id = prediction_id.strip().lower()
        label = _normalise_label(label)
        try:
            record = self._store.read_record(prediction_id)
            if record is None:
                raise _not_captured(prediction_id)
            if not is_new_class:
                label = _known_class(label, record.scores)
            is_first = self._store.read_label(prediction_id) is None
            entry = TrueLabel(label=label, time=datetime.now(UTC), key=key)
            self._store.write_label(prediction_id, entry)
        except BadIdError as error:
            raise FeedbackError("BadId", f"{error}.") from error
        except StoreError as error:
            raise FeedbackError("StoreUnavailable", f"The feedback is not stored: {error}.") from error
        if is_first:
            self._accuracy.count(record, label)
        return entry


def _normalise_label(label: str) -> str:
    label = unicodedata.normalize("NFC", label).strip()
    if not label:
        raise FeedbackError("BadLabel", "The label is empty: send the name of the class that the image has.")
    if len(label) > MAX_LABEL_CHARACTERS:
        raise FeedbackError("BadLabel", f"The label has more than {MAX_LABEL_CHARACTERS} characters.")
    odd = next((character for character in label if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")), None)
    if odd is not None:
        shown = label[:80]
        raise FeedbackError(
            "BadLabel", f"The label {shown!r} has {odd!r}: a label is one line without control characters."
        )
    return label


def _known_class(label: str, classes: Collection[str]) -> str:
    """Return the class of the model that a label names, as the model spells it."""
    match = next((name for name in classes if unicodedata.normalize("NFC", name) == label), None)
    if match is not None:
        return match
    more = f" and {len(classes) - _MAX_LISTED} more" if len(classes) > _MAX_LISTED else ""
    known = ", ".join(sorted(classes)[:_MAX_LISTED])
    message = f'The model has no class {label!r}: it has {known}{more}. For a new class, send "newClass": true as well.'
    raise FeedbackError("UnknownClass", message)


def _not_captured(prediction_id: str) -> FeedbackError:
    message = (
        f"There is no capture of the prediction {prediction_id}: it was not selected, its capture was dropped or has "
        "been deleted, or it is a few seconds old and not stored yet."
    )
    return FeedbackError("NotCaptured", message)
