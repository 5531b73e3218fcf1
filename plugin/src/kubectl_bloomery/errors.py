"""The error that a command ends with, and its form for files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class CommandError(Exception):
    """A command cannot do its work; the message is a sentence for its user."""


@contextmanager
def error_on_read(path: Path) -> Iterator[None]:
    """Turn a failure to read a file into a sentence; the block contains only the reading.

    Raises:
        CommandError: the file cannot be read.
    """
    try:
        yield
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror or error}.") from error


@contextmanager
def error_on_write(path: Path | str) -> Iterator[None]:
    """Turn a failure to write a file into a sentence; the block contains only the writing.

    Raises:
        CommandError: the file cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror or error}.") from error
