"""Lists the files of a source that people put there; the files of systems and tools are passed over."""

from __future__ import annotations

from collections.abc import Iterator

from bloomery_model.sources.base import Source, is_junk_file
from bloomery_model.sources.left_out import LeftOut
from bloomery_model.sources.names import is_junk_name
from bloomery_model.stores import StoredFile


def list_candidates(source: Source) -> Iterator[StoredFile | LeftOut]:
    """Yield the files that may be images, and those that cannot be used; one may come twice."""
    for file in source.list():
        is_junk = is_junk_name(file.path) if isinstance(file, LeftOut) else _is_ignored_silently(file)
        if not is_junk:
            yield file


def _is_ignored_silently(file: StoredFile) -> bool:
    # Web consoles mark an S3 "folder" by an empty object with its name.
    return is_junk_file(file.path) or (file.size == 0 and "." not in file.path.rpartition("/")[2])
