"""Ids of predictions: UUIDs of version 7, which carry the time, so that a capture is found by its id alone."""

from __future__ import annotations

import os
import re
import time
from datetime import UTC, datetime
from uuid import UUID

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_MAX_SHOWN = 80


class BadIdError(ValueError):
    """A text is no id of a prediction; the message is a sentence."""


def new_prediction_id() -> str:
    """Return an id of now (RFC 9562, 5.7); ``uuid.uuid7`` comes only with Python 3.14."""
    value = time.time_ns() // 1_000_000 << 80 | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) | 7 << 76
    return str(UUID(int=value & ~(0b11 << 62) | 0b10 << 62))


def time_of(prediction_id: str) -> datetime:
    """Return the time of an id.

    Raises:
        BadIdError: it is no id of a prediction.
    """
    if not _ID.fullmatch(prediction_id):
        raise _bad_id(prediction_id)
    try:
        return datetime.fromtimestamp((UUID(prediction_id).int >> 80) / 1000, UTC)
    except (OverflowError, ValueError) as error:  # beyond the year 9999
        raise _bad_id(prediction_id) from error


def _bad_id(text: str) -> BadIdError:
    shown = text[:_MAX_SHOWN]
    return BadIdError(f"{shown!r} is no id of a prediction: take it from the header X-Prediction-Id of the answer")
