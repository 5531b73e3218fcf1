"""Layouts: the class and the split of each file of a source, from its path."""

from __future__ import annotations

import fnmatch
import logging
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePosixPath

from bloomery_model import EXTENSIONS
from bloomery_trainer.errors import BadData
from bloomery_trainer.prepare.file_table import Assignment, FileTable, ListingQueries, PendingFile, file_extension
from bloomery_trainer.prepare.left_out import LeftOut
from bloomery_trainer.prepare.sources.base import Source, is_junk_file
from bloomery_trainer.prepare.split import SPLIT_FOLDERS
from bloomery_trainer.storage import StoredFile

logger = logging.getLogger(__name__)

MAX_LABEL_BYTES = 1024
"""Size of a label text."""

_IMAGE_EXTENSIONS = tuple(EXTENSIONS)
_EXCLUDED = "taken out by exclude"

Assign = Callable[[PendingFile], Assignment]


class Exclusion:
    """The files to leave out, by path or by glob; remembers which of the patterns matched."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = {unicodedata.normalize("NFC", pattern): pattern for pattern in patterns}
        self._globs = [
            (re.compile(fnmatch.translate(normalized)), pattern)
            for normalized, pattern in self._patterns.items()
            if re.search(r"[*?\[]", normalized)
        ]
        self._used: set[str] = set()

    def matches(self, path: str) -> bool:
        """Whether the file is left out."""
        path = unicodedata.normalize("NFC", path)
        match = self._patterns.get(path) or next((pattern for glob, pattern in self._globs if glob.match(path)), None)
        if match is None:
            return False
        self._used.add(match)
        return True

    def unused_patterns(self) -> list[str]:
        """Return the patterns that matched no file."""
        return [pattern for pattern in self._patterns.values() if pattern not in self._used]


def list_source(
    files: FileTable, number: int, source: Source, *, layout: str, class_name: str | None, exclusion: Exclusion
) -> None:
    """List a source and assign each of its files a class and a split by the folders it is in.

    Args:
        files: takes the files.
        number: of the source.
        source: the source.
        layout: ``Folders`` (``class/…/file``), ``SplitFolders`` (``train/class/…/file``), ``ImageText`` (``n.jpg`` and
            ``n.txt``), or ``Auto`` to choose by the paths.
        class_name: the class of all files, whatever their folders.
        exclusion: the files to leave out.

    Raises:
        BadData: there is no image, or a split is missing.
    """
    listing = files.listing
    listing.add(number, _list_files(source, exclusion))
    assign, has_split_folders = _choose_layout(listing, number, layout, class_name)

    def assignments() -> Iterator[Assignment]:
        for file in listing.files(number):
            if exclusion.matches(file.path):
                yield Assignment(file.id, reason="Excluded", detail=_EXCLUDED)
            else:
                yield assign(file)

    listing.assign(assignments())
    _require_images(files, number, source.uri, layout)
    if has_split_folders:
        _require_splits(listing, number)
    logger.info("%d files to inspect under %s", listing.count_pending(number), source.uri)


def _list_files(source: Source, exclusion: Exclusion) -> Iterator[StoredFile | LeftOut]:
    for file in source.list():
        if isinstance(file, LeftOut):
            is_excluded = exclusion.matches(file.path)
            yield LeftOut(file.path, reason="Excluded", detail=_EXCLUDED) if is_excluded else file
        elif not _is_ignored_silently(file):
            yield file


def _is_ignored_silently(file: StoredFile) -> bool:
    # Web consoles mark an S3 "folder" by an empty object with its name.
    return is_junk_file(file.path) or (file.size == 0 and "." not in file.path.rpartition("/")[2])


def _choose_layout(listing: ListingQueries, number: int, layout: str, class_name: str | None) -> tuple[Assign, bool]:
    """Return the function that assigns a file, and whether folders name the split."""
    if class_name is not None:
        normalized = unicodedata.normalize("NFC", class_name)
        return (lambda file: Assignment(file.id, normalized)), False
    folders = listing.top_folders(number, limit=len(SPLIT_FOLDERS))
    looks_split = "train" in folders and folders <= SPLIT_FOLDERS.keys()
    if layout == "ImageText" or (layout == "Auto" and _looks_labelled(listing, number)):
        listing.attach_labels(number, _IMAGE_EXTENSIONS, max_bytes=MAX_LABEL_BYTES)
        has_split_folders = looks_split and len(folders) > 1
        return (lambda file: _assign_by_text(file, split_folders=has_split_folders)), has_split_folders
    if layout == "SplitFolders" or (layout == "Auto" and looks_split):
        return _assign_by_split_folders, True
    return _assign_by_folders, False


def _looks_labelled(listing: ListingQueries, number: int) -> bool:
    # Class folders, too, may hold a few notes.
    if not listing.has_texts(number) or not listing.is_flat(number):
        return False
    images, labelled = listing.count_labelled(number, _IMAGE_EXTENSIONS)
    return labelled > 0 and 2 * labelled >= images


def _assign_by_text(file: PendingFile, *, split_folders: bool) -> Assignment:
    if file.label is not None:
        return Assignment(file.id, split=SPLIT_FOLDERS.get(file.path.split("/")[0]) if split_folders else None)
    extension = file_extension(file.path)
    if extension == "txt":
        return Assignment(file.id, reason="NoImage", detail="a label without an image of its name")
    if extension in _IMAGE_EXTENSIONS:
        return Assignment(file.id, reason="NoLabel", detail="an image without a label (.txt) of its name")
    return Assignment(file.id, reason="Format", detail="neither an image nor a label")


def _assign_by_split_folders(file: PendingFile) -> Assignment:
    folders = PurePosixPath(file.path).parts[:-1]
    if not folders or folders[0] not in SPLIT_FOLDERS:
        return Assignment(file.id, reason="NotInFolder", detail="not under train/, validation/ or test/")
    return _assign_class(file, folders[1:], SPLIT_FOLDERS[folders[0]])


def _assign_by_folders(file: PendingFile) -> Assignment:
    return _assign_class(file, PurePosixPath(file.path).parts[:-1], None)


def _assign_class(file: PendingFile, folders: tuple[str, ...], split: str | None) -> Assignment:
    if not folders:
        return Assignment(file.id, reason="NotInFolder", detail="not in a folder that names its class")
    # File systems compose accents differently; a class has one spelling.
    return Assignment(file.id, unicodedata.normalize("NFC", "/".join(folders)), split)


def _require_images(files: FileTable, number: int, uri: str, layout: str) -> None:
    if files.listing.count_pending(number):
        return
    reasons = files.ignored.count_by_reason(number)
    if reasons.get("Excluded"):
        content = "are only images that exclude takes out"
    elif layout == "ImageText" and reasons:
        content = "is no image with a label text of its name (n.jpg and n.txt)"
    else:
        content = "are loose files but no class folders" if reasons else "is nothing"
    raise BadData("NoImages", f"there {content} under {uri}")


def _require_splits(listing: ListingQueries, number: int) -> None:
    present = listing.folder_splits(number)
    for split in ("train", "validation"):
        if split not in present:
            raise BadData("MissingSplit", f"there are no class folders under {split}/")
