"""Which files of a source are images of which class: the folder layouts."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from bloomery_trainer.errors import BadData
from bloomery_trainer.storage import StoredFile

SPLITS = ("train", "validation", "test")
_SPLIT_FOLDERS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
_LITTER = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file in a class folder, not looked into yet; `split` is None where the layout has none of its own."""

    key: str
    size: int
    class_name: str
    split: str | None


@dataclass(frozen=True, slots=True)
class Ignored:
    """A file that is not used, and why: a CamelCase reason and some words."""

    key: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Listing:
    """What a source holds, ordered by key."""

    candidates: list[Candidate]
    ignored: list[Ignored]


def read_layout(files: Iterable[StoredFile], layout: str) -> Listing:
    """Gives each file its class and split by the folders it lies in.

    Memory: about 300 bytes a file, so 300 MB for a million of them.

    Args:
        files: all files of the source, in any order.
        layout: Folders (`class/…/file`), SplitFolders (`train/class/…/file`), or Auto to tell by the names.
    """
    kept = sorted((file for file in files if not _is_litter(file)), key=lambda file: file.path)
    split_folders = layout == "SplitFolders" or (layout == "Auto" and _looks_split(kept))
    listing = Listing([], [])
    for file in kept:
        found = _place(file, split_folders=split_folders)
        if isinstance(found, Candidate):
            listing.candidates.append(found)
        else:
            listing.ignored.append(found)
    if split_folders:
        _require_splits(listing)
    return listing


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


def _is_allowed(character: str) -> bool:
    # Marks (M…) are the vowel signs of scripts such as Devanagari and Thai: part of their letters.
    return character in "_-/ " or unicodedata.category(character)[0] in "LM" or character.isdecimal()


def _is_litter(file: StoredFile) -> bool:
    parts = file.path.split("/")
    if any(part.startswith(".") or part in _LITTER for part in parts):
        return True
    # Consoles mark an S3 "folder" by an empty object of its name.
    return file.size == 0 and "." not in parts[-1]


def _looks_split(files: list[StoredFile]) -> bool:
    folders = {parts[0] for file in files if len(parts := file.path.split("/")) > 1}
    return "train" in folders and folders <= _SPLIT_FOLDERS.keys()


def _place(file: StoredFile, *, split_folders: bool) -> Candidate | Ignored:
    folders = PurePosixPath(file.path).parts[:-1]
    split = None
    if split_folders:
        if not folders or folders[0] not in _SPLIT_FOLDERS:
            return Ignored(file.path, "NotInFolder", "not under train/, validation/ or test/")
        split, folders = _SPLIT_FOLDERS[folders[0]], folders[1:]
    if not folders:
        return Ignored(file.path, "NotInFolder", "not in a folder that names its class")
    # One name has one spelling, whichever way a file system composes its accents.
    return Candidate(file.path, file.size, unicodedata.normalize("NFC", "/".join(folders)), split)


def _require_splits(listing: Listing) -> None:
    present = {candidate.split for candidate in listing.candidates}
    for split in ("train", "validation"):
        if listing.candidates and split not in present:
            raise BadData("MissingSplit", f"there are no class folders under {split}/")
    trained = {candidate.class_name for candidate in listing.candidates if candidate.split == "train"}
    for candidate in listing.candidates:
        if candidate.class_name not in trained:
            raise BadData(
                "MissingSplit", f"class {candidate.class_name!r} is under {candidate.split}/ but not under train/"
            )
