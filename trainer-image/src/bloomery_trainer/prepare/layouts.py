"""Layouts: the class and the split of each file of a source, from its path."""

from __future__ import annotations

import fnmatch
import logging
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence

from bloomery_model import EXTENSIONS
from bloomery_model.file_names import file_extension
from bloomery_model.sources.base import Source
from bloomery_model.sources.left_out import LeftOut
from bloomery_model.sources.listing import list_candidates
from bloomery_model.split_folders import folder_split
from bloomery_trainer.class_names import normalize_class_name
from bloomery_trainer.config import Addition
from bloomery_trainer.errors import BadConfig, BadData
from bloomery_trainer.prepare.arrangement import Arrangement, KnownClasses, find_arrangement
from bloomery_trainer.prepare.captures import attach_documents
from bloomery_trainer.prepare.file_table import (
    Assignment,
    FileTable,
    ListingQueries,
    PendingFile,
    SplitQueries,
)
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
    files: FileTable,
    number: int,
    source: Source,
    *,
    layout: str,
    addition: Addition,
    known: KnownClasses,
    exclusion: Exclusion,
) -> None:
    """List a source and assign each of its files a class and a split by the folders it is in.

    Args:
        files: takes the files.
        number: of the source.
        source: the source.
        layout: ``Folders`` (``class/…/file``), ``SplitFolders`` (``train/class/…/file``), ``ImageText`` (``n.jpg`` and
            ``n.txt``), or ``Auto`` to choose by the paths.
        addition: the source as it is configured: captures have documents instead of a layout, and the files of a source
            with a class have that, whatever their folders.
        known: the classes that are known already.
        exclusion: the files to leave out.

    Raises:
        BadData: there is no image; captures may come later.
    """
    listing = files.listing
    listing.add(number, _list_files(source, exclusion))
    if addition.from_ == "Capture":
        assign = attach_documents(listing, number, addition.trust_above)
    else:
        assign = _choose_assignment(listing, number, layout, addition.class_name, known)

    def assignments() -> Iterator[Assignment]:
        for file in listing.files(number):
            if exclusion.matches(file.path):
                yield Assignment(file.id, reason="Excluded", detail=_EXCLUDED)
            else:
                yield assign(file)

    listing.assign(assignments())
    if addition.from_ is None:
        _require_images(files, number, source.uri, layout)
    logger.info("%d files to inspect under %s", listing.count_pending(number), source.uri)


def require_train(splits: SplitQueries) -> None:
    """Check, once all sources are listed, that there is something to train with.

    Raises:
        BadData: all images are in folders for validation and test.
    """
    if "train" not in splits.folder_splits() and not splits.has_free_files():
        raise BadData("MissingSplit", "there are no class folders under train/")


def _list_files(source: Source, exclusion: Exclusion) -> Iterator[StoredFile | LeftOut]:
    for file in list_candidates(source):
        if isinstance(file, LeftOut) and exclusion.matches(file.path):
            yield LeftOut(file.path, reason="Excluded", detail=_EXCLUDED)
        else:
            yield file


def _choose_assignment(
    listing: ListingQueries, number: int, layout: str, class_name: str | None, known: KnownClasses
) -> Assign:
    """Return the function that assigns a file."""
    if class_name is not None:
        normalized = normalize_class_name(class_name)
        return lambda file: Assignment(file.id, normalized)
    arrangement = find_arrangement(listing, number, layout, known)
    if arrangement.is_labelled:
        listing.attach_labels(number, _IMAGE_EXTENSIONS, max_bytes=MAX_LABEL_BYTES)
        return lambda file: _assign_by_text(file, arrangement)
    return lambda file: _assign_by_folders(file, arrangement)


def _assign_by_text(file: PendingFile, arrangement: Arrangement) -> Assignment:
    if file.label is not None:
        folders = _inner_folders(file, arrangement)
        return Assignment(file.id, split=folder_split(folders[0]) if folders and arrangement.split else None)
    extension = file_extension(file.path)
    if extension == "txt":
        return Assignment(file.id, reason="NoImage", detail="a label without an image of its name")
    if extension in _IMAGE_EXTENSIONS:
        return Assignment(file.id, reason="NoLabel", detail="an image without a label (.txt) of its name")
    return Assignment(file.id, reason="Format", detail="neither an image nor a label")


def _assign_by_folders(file: PendingFile, arrangement: Arrangement) -> Assignment:
    folders = _inner_folders(file, arrangement)
    split = None
    if arrangement.split:
        name = folders[0 if arrangement.split == "First" else -1] if folders else ""
        split = folder_split(name)
        if split is None:
            return Assignment(file.id, reason="NotInFolder", detail="not under train/, validation/ or test/")
        folders = _remove_split(folders, arrangement, split)
    if not folders:
        return Assignment(file.id, reason="NotInFolder", detail="not in a folder that names its class")
    return Assignment(file.id, normalize_class_name("/".join(folders)), split)


def _remove_split(folders: Sequence[str], arrangement: Arrangement, split: str) -> Sequence[str]:
    """Return the folders of the class; a split may be in a folder of its own name, as train/train/class."""
    if arrangement.split == "Last":
        return folders[:-1]
    folders = folders[1:]
    while len(folders) > 1 and folder_split(folders[0]) == split:
        folders = folders[1:]
    return folders


def _inner_folders(file: PendingFile, arrangement: Arrangement) -> Sequence[str]:
    """Return the folders of a file below the wrapper; none for a file beside it."""
    if not file.path.startswith(arrangement.wrapper):
        return ()
    folders = file.path.removeprefix(arrangement.wrapper).split("/")[:-1]
    return [folder for folder in folders if folder not in ("", ".")]


def _require_images(files: FileTable, number: int, uri: str, layout: str) -> None:
    if files.listing.count_pending(number):
        return
    reasons = files.ignored.count_by_reason(number)
    if reasons.get("Unreadable"):
        count = reasons["Unreadable"]
        raise BadConfig(
            "AccessDenied",
            f"no file under {uri} can be read, and {count} cannot: check who may read the files and folders",
        )
    if set(reasons) == {"BadName"}:
        content = "are only files whose names cannot be used"
    elif reasons.get("Excluded"):
        content = "are only images that exclude takes out"
    elif layout == "ImageText" and reasons:
        content = "is no image with a label text of its name (n.jpg and n.txt)"
    else:
        content = "are loose files but no class folders" if reasons else "is nothing"
    raise BadData("NoImages", f"there {content} under {uri}")
