"""Lists the files below a local folder; a folder or name that cannot be used does not end the listing."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bloomery_model.file_names import has_control_character, to_printable

MAX_DEPTH = 100
"""Folders in folders: each level costs an open file while it is listed."""

_UNFINISHED = re.compile(r".*#\d+", re.DOTALL)
"""Name of a file that the store's client is still writing, or had no time to finish."""


class Problem(NamedTuple):
    """Why a file, or every file below a folder, cannot be used: a CamelCase reason and a sentence."""

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of a folder: its path below the folder, its bytes, and a stamp that changes with its content.

    With a ``problem``, it stands for a file or a folder that cannot be used.
    """

    path: str
    size: int
    stamp: str = ""
    problem: Problem | None = None


def list_local_files(root: Path, below: str | None = None) -> Iterator[StoredFile]:
    """Yield all files, also behind links, and the folders and files that cannot be read, with their problem.

    Args:
        root: the folder that paths are relative to.
        below: a folder in it, to list nothing else; it may be missing.

    Raises:
        PermissionError: the folder itself cannot be listed.
    """
    start = f"{below.strip('/')}/" if below else ""
    with suppress(FileNotFoundError, NotADirectoryError):
        yield from _list_folder(root, start, _identity((root / start).stat()), ())


_Identity = tuple[int, int]
"""A folder's device and number on it."""


def _list_folder(root: Path, path: str, identity: _Identity, parents: tuple[_Identity, ...]) -> Iterator[StoredFile]:
    """Yield the files below a folder; ``path`` ends with a slash, and ``parents`` are the folders around it."""
    with os.scandir(root / path) as entries:
        for entry in entries:
            entry_path, problem = f"{path}{entry.name}", _name_problem(entry.name)
            if problem is not None:
                yield StoredFile(to_printable(entry_path), 0, problem=problem)
                continue
            try:
                status = entry.stat()
            except PermissionError as error:
                yield StoredFile(entry_path, 0, problem=_unreadable(f"it cannot be read: {error.strerror}"))
            except OSError:  # a link that leads nowhere, or a file that was removed meanwhile
                continue
            else:
                if stat.S_ISDIR(status.st_mode):
                    yield from _list_inner_folder(root, f"{entry_path}/", _identity(status), (*parents, identity))
                elif stat.S_ISREG(status.st_mode) and not _UNFINISHED.fullmatch(entry.name):
                    yield StoredFile(entry_path, status.st_size, _stamp(status))


def _list_inner_folder(
    root: Path, path: str, identity: _Identity, parents: tuple[_Identity, ...]
) -> Iterator[StoredFile]:
    if identity in parents:
        yield StoredFile(path, 0, problem=_unreadable("it is a link to a folder around it"))
    elif len(parents) > MAX_DEPTH:
        yield StoredFile(path, 0, problem=_unreadable(f"it is in more than {MAX_DEPTH} folders"))
    else:
        try:
            yield from _list_folder(root, path, identity, parents)
        except PermissionError as error:
            yield StoredFile(path, 0, problem=_unreadable(f"the folder cannot be listed: {error.strerror}"))
        except FileNotFoundError:  # removed meanwhile
            return


def _unreadable(detail: str) -> Problem:
    return Problem(reason="Unreadable", detail=detail)


def _identity(status: os.stat_result) -> _Identity:
    return status.st_dev, status.st_ino


def _stamp(status: os.stat_result) -> str:
    return f'"{status.st_ino:x}-{status.st_mtime_ns // 1000:x}-{status.st_size:x}"'


def _name_problem(name: str) -> Problem | None:
    try:
        name.encode()
    except UnicodeEncodeError:
        return Problem(reason="BadName", detail="its name is not UTF-8")
    if has_control_character(name):
        return Problem(reason="BadName", detail="its name has a control character, such as a line break")
    return None
