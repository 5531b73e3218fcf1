"""Which files of a source are images of which class: the layouts."""

from __future__ import annotations

import fnmatch
import logging
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePosixPath

from bloomery_model import EXTENSIONS
from bloomery_trainer.errors import BadData
from bloomery_trainer.prepare.file_table import Index, Pending, Placed, ending
from bloomery_trainer.prepare.sources.archive import is_litter
from bloomery_trainer.prepare.sources.base import Source
from bloomery_trainer.storage import StoredFile

log = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
_SPLIT_FOLDERS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
_IMAGES = tuple(EXTENSIONS)
LONGEST_LABEL = 1024
"""Bytes of a label text, at most."""


class Exclusion:
    """The images that people take out, by path or by glob; remembers which of the patterns were of use."""

    def __init__(self, patterns: Iterable[str]) -> None:
        normal = {unicodedata.normalize("NFC", pattern): pattern for pattern in patterns}
        self._plain = normal
        self._globs = [
            (re.compile(fnmatch.translate(pattern)), given)
            for pattern, given in normal.items()
            if re.search(r"[*?\[]", pattern)
        ]
        self._used: set[str] = set()

    def covers(self, path: str) -> bool:
        """Whether the file is taken out."""
        path = unicodedata.normalize("NFC", path)
        found = self._plain.get(path) or next((given for glob, given in self._globs if glob.match(path)), None)
        if found is None:
            return False
        self._used.add(found)
        return True

    def unused(self) -> list[str]:
        """The patterns that no file fitted."""
        return [given for given in self._plain.values() if given not in self._used]


def place_files(
    index: Index, number: int, source: Source, *, layout: str, class_name: str | None, exclusion: Exclusion
) -> None:
    """Lists a source and gives each of its files a class and a split by the folders it lies in.

    Args:
        index: takes the files.
        number: of the source.
        source: where they lie.
        layout: Folders (`class/…/file`), SplitFolders (`train/class/…/file`), ImageText (`n.jpg` and `n.txt`), or Auto
            to tell by the names.
        class_name: the class of all files, whatever their folders say.
        exclusion: what is taken out.

    Raises BadData where there is no image or a split is missing.
    """
    index.add(number, (file for file in source.list() if not _is_litter(file)))
    place, splits = _reader(index, number, layout, class_name)

    def placed() -> Iterator[Placed]:
        for file in index.listed(number):
            if exclusion.covers(file.path):
                yield Placed(file.id, reason="Excluded", detail="taken out by exclude")
            else:
                yield place(file)

    index.place(placed())
    _refuse_nothing(index, number, source.uri, layout)
    if splits:
        _require_splits(index, number)
    log.info("%d files to look at under %s", index.count_pending(number), source.uri)


def refuse_bad_names(names: Iterable[str]) -> None:
    """Raises BadData for a class name that is more than letters, digits, `_`, `-`, spaces and `/`."""
    for name in sorted(names):
        bad = sorted({character for character in name if not _is_allowed(character)})
        if bad:
            raise BadData(
                "BadClassName",
                f"the class name {name!r} has {' '.join(map(repr, bad))}; class names may have letters of any script, "
                "digits, '_', '-', '/' and spaces",
            )
        if not all(part.strip() for part in name.split("/")):
            raise BadData("BadClassName", f"the class name {name!r} has nothing before or after a '/'")


def _is_allowed(character: str) -> bool:
    # Marks (M…) are the vowel signs of scripts such as Devanagari and Thai: part of their letters.
    return character in "_-/ " or unicodedata.category(character)[0] in "LM" or character.isdecimal()


def _is_litter(file: StoredFile) -> bool:
    # Consoles mark an S3 "folder" by an empty object of its name.
    return is_litter(file.path) or (file.size == 0 and "." not in file.path.rpartition("/")[2])


def _reader(index: Index, number: int, layout: str, class_name: str | None) -> tuple[Callable[[Pending], Placed], bool]:
    """What gives a file its place, and whether folders say the split."""
    if class_name is not None:
        one = unicodedata.normalize("NFC", class_name)
        return (lambda file: Placed(file.id, one)), False
    folders = index.top_folders(number, at_most=len(_SPLIT_FOLDERS))
    looks_split = "train" in folders and folders <= _SPLIT_FOLDERS.keys()
    if layout == "ImageText" or (layout == "Auto" and _looks_paired(index, number)):
        index.pair(number, _IMAGES, longest=LONGEST_LABEL)
        splits = looks_split and len(folders) > 1
        return (lambda file: _by_text(file, split_folders=splits)), splits
    if layout == "SplitFolders" or (layout == "Auto" and looks_split):
        return _by_split_folders, True
    return _by_folders, False


def _looks_paired(index: Index, number: int) -> bool:
    # Class folders too may hold a few notes.
    if not index.has_texts(number) or not index.is_flat(number):
        return False
    images, pairs = index.count_pairs(number, _IMAGES)
    return pairs > 0 and 2 * pairs >= images


def _by_text(file: Pending, *, split_folders: bool) -> Placed:
    if file.label is not None:
        return Placed(file.id, split=_SPLIT_FOLDERS.get(file.path.split("/")[0]) if split_folders else None)
    if ending(file.path) == "txt":
        return Placed(file.id, reason="NoImage", detail="a label without an image of its name")
    if ending(file.path) in _IMAGES:
        return Placed(file.id, reason="NoLabel", detail="an image without a label (.txt) of its name")
    return Placed(file.id, reason="Format", detail="neither an image nor a label")


def _by_split_folders(file: Pending) -> Placed:
    folders = PurePosixPath(file.path).parts[:-1]
    if not folders or folders[0] not in _SPLIT_FOLDERS:
        return Placed(file.id, reason="NotInFolder", detail="not under train/, validation/ or test/")
    return _in_class(file, folders[1:], _SPLIT_FOLDERS[folders[0]])


def _by_folders(file: Pending) -> Placed:
    return _in_class(file, PurePosixPath(file.path).parts[:-1], None)


def _in_class(file: Pending, folders: tuple[str, ...], split: str | None) -> Placed:
    if not folders:
        return Placed(file.id, reason="NotInFolder", detail="not in a folder that names its class")
    # One name has one spelling, whichever way a file system composes its accents.
    return Placed(file.id, unicodedata.normalize("NFC", "/".join(folders)), split)


def _refuse_nothing(index: Index, number: int, uri: str, layout: str) -> None:
    if index.count_pending(number):
        return
    reasons = index.reasons(number)
    if reasons.get("Excluded"):
        found = "are only images that exclude takes out"
    elif layout == "ImageText" and reasons:
        found = "is no image with a label text of its name (n.jpg and n.txt)"
    else:
        found = "are loose files but no class folders" if reasons else "is nothing"
    raise BadData("NoImages", f"there {found} under {uri}")


def _require_splits(index: Index, number: int) -> None:
    present = index.given_splits(number)
    for split in ("train", "validation"):
        if split not in present:
            raise BadData("MissingSplit", f"there are no class folders under {split}/")
