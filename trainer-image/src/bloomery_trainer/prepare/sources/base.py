"""Where images come from: a folder in a store, or an archive fetched from one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

from bloomery_trainer.parallel import map_in_order
from bloomery_trainer.storage import StoredFile

Item = TypeVar("Item")
Result = TypeVar("Result")

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


def side_by_side(
    function: Callable[[Item], Result], items: Iterable[Item], sources: Sequence[Source]
) -> Iterator[Result]:
    """Yields `function(item)` for each item, in order; many at once where most of it is waiting for a network."""
    if any(source.is_remote for source in sources):
        return map_in_order(function, items, threads=_READERS)
    return map(function, items)
