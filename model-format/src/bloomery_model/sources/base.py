"""The interface of a source of images, and the concurrent reading of one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

from bloomery_model.parallel import map_in_order
from bloomery_model.sources.left_out import LeftOut
from bloomery_model.stores import StoredFile
from bloomery_model.task_errors import Unavailable

Item = TypeVar("Item")
Result = TypeVar("Result")

_REMOTE_READERS = 16
"""Concurrent reads over a network: enough to hide its latency; at most twice as many files are in memory."""

_JUNK_NAMES = frozenset(
    {
        # macOS and Windows
        "__macosx", "icon\r", "icon\\r", "network trash folder", "temporary items",
        "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini",
        "$recycle.bin", "recycler", "recycled", "system volume information", "found.000",
        # NAS: Synology and QNAP
        "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@tmp", "@sharebin",
        # NetApp and Linux
        "~snapshot", "lost+found",
    }
)  # fmt: skip
"""Names of folders and files in lower case: Windows and its file servers do not distinguish the cases."""


class DamagedFile(Exception):
    """One file of a source can never be read; the others can.

    Attributes:
        reason: CamelCase, why the file is ignored.
    """

    reason = "Corrupt"


class UnreadableFile(DamagedFile):
    """One file of a source may not be read."""

    reason = "Unreadable"


class Source(Protocol):
    """Files by their paths, listed as a stream, readable from many threads at once.

    Attributes:
        uri: its address, for messages.
        warnings: sentences for people about the files that were listed.
    """

    uri: str
    warnings: Sequence[str]

    @property
    def is_remote(self) -> bool:
        """Whether a read waits for a network."""

    def list(self) -> Iterator[StoredFile | LeftOut]:
        """Yield all files; one may come twice."""

    def read(self, path: str) -> bytes:
        """Return the content of one file.

        Raises:
            FileNotFoundError: there is no such file.
            DamagedFile: the file cannot be read.
        """


def read_listed_file(source: Source, path: str) -> bytes:
    """Return the content of a file that the source has listed.

    Raises:
        Unavailable: the file was removed since.
        DamagedFile: the file cannot be read.
    """
    try:
        return source.read(path)
    except FileNotFoundError as error:
        raise Unavailable("SourceChanged", f"{path} was removed while the dataset was being prepared") from error


def map_reads(function: Callable[[Item], Result], items: Iterable[Item], sources: Sequence[Source]) -> Iterator[Result]:
    """Yield ``function(item)``, which reads from the sources, for each item, in order; concurrently over a network."""
    if any(source.is_remote for source in sources):
        return map_in_order(function, items, threads=_REMOTE_READERS)
    return map(function, items)


def is_junk_file(path: str) -> bool:
    """Whether systems and tools made the file: hidden files, ``__MACOSX``, ``@eaDir``, ``lost+found`` and others."""
    return any(part.startswith(".") or part.casefold() in _JUNK_NAMES for part in path.split("/"))
