"""The choice of OpenVINO, kept beside the model for the next start of the same container, and unfinished attempts."""

from __future__ import annotations

import atexit
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from bloomery_serving.engines.base import EngineForm, Measurement

RECORD, ATTEMPTS = "choice.json", "attempts"
MAX_ATTEMPTS = 3
"""Choices that may end with their process: a fault of native code must not end every start of a server."""


class TooManyAttempts(Exception):
    """The process ended during each of the last choices; the message is a sentence without its full stop."""


@dataclass(frozen=True)
class Conditions:
    """All that a choice depends on; a choice under other conditions does not count.

    Attributes:
        digest: of the model.
        references: digest of the references' file.
        setting: the engine that the settings ask for.
        versions: of the engines.
        processor: its name, and what it has instructions for.
        threads: runs side by side.
    """

    digest: str
    references: str
    setting: str
    versions: str
    processor: str
    threads: int


@dataclass(frozen=True)
class ChoiceRecord:
    """A choice, its conditions, and the figures that led to it."""

    conditions: Conditions
    form: EngineForm
    best_batch: int
    measured: tuple[Measurement, ...]


_FORMAT = TypeAdapter(ChoiceRecord)


def read_record(folder: Path, conditions: Conditions) -> ChoiceRecord | None:
    """Return the choice that was made under these conditions; None if there is none that can be read."""
    try:
        record = _FORMAT.validate_json((folder / RECORD).read_bytes())
    except (OSError, ValidationError):
        return None
    return record if record.conditions == conditions else None


def write_record(folder: Path, record: ChoiceRecord) -> None:
    """Keep a choice; raise OSError if the folder takes no file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).write_bytes(_FORMAT.dump_json(record))


@contextmanager
def counted_attempt(folder: Path) -> Iterator[None]:
    """Count a choice while the block runs, in a file that stays if the process dies with it.

    A process that is stopped meanwhile takes the file away: its thread ends without a word.

    Raises:
        TooManyAttempts: MAX_ATTEMPTS choices have not ended.
    """
    path = folder / ATTEMPTS
    unfinished = path.stat().st_size if path.exists() else 0
    if unfinished >= MAX_ATTEMPTS:
        raise TooManyAttempts(f"the server ended {unfinished} times while it measured OpenVINO")
    # A disk that takes no files counts nothing.
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(b".")

    def take_away() -> None:
        with suppress(OSError):
            path.unlink()

    atexit.register(take_away)
    try:
        yield
    finally:
        atexit.unregister(take_away)
        take_away()
