"""Where images come from: a folder in a store, or an archive fetched from one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from bloomery_trainer.storage import StoredFile


class DamagedFile(Exception):
    """One file of a source cannot be read, now or later; the others can."""


class Source(Protocol):
    """Files by their paths, listed as a stream, readable from many threads at once."""

    uri: str

    def list(self) -> Iterator[StoredFile]:
        """Yields all files."""

    def read(self, path: str) -> bytes:
        """The bytes of one file; FileNotFoundError where there is none, DamagedFile where it is of no use."""
