"""Where images come from: a folder in a store, or an archive fetched from one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from bloomery_trainer.resources import cpu_count
from bloomery_trainer.storage import StoredFile

_READERS = 16
"""Files read at once over a network: enough to hide its latency, few enough to hold at most 2 × 16 of them."""


class DamagedFile(Exception):
    """One file of a source cannot be read, now or later; the others can."""


class Source(Protocol):
    """Files by their paths, listed as a stream, readable from many threads at once."""

    uri: str

    @property
    def is_remote(self) -> bool:
        """Whether reading means waiting for a network."""

    def list(self) -> Iterator[StoredFile]:
        """Yields all files."""

    def read(self, path: str) -> bytes:
        """The bytes of one file; FileNotFoundError where there is none, DamagedFile where it is of no use."""


def readers(sources: Sequence[Source]) -> int:
    """How many threads read and judge images best: as many as processors, or more where most of it is waiting."""
    return max(cpu_count(), _READERS if any(source.is_remote for source in sources) else 1)
