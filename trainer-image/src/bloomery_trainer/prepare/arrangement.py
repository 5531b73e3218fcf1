"""The arrangement of a source: the place of the class and of the split in the paths of its files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from bloomery_model import EXTENSIONS
from bloomery_model.split_folders import SPLIT_FOLDERS, folder_split
from bloomery_trainer.class_names import normalize_class_name
from bloomery_trainer.prepare.file_table import ListingQueries

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Arrangement:
    """The place of the class and of the split.

    Attributes:
        wrapper: folders around everything, each with a slash at its end: part of neither class nor split.
        split: whether the first or the last folder names the split; None if no folder does.
        is_labelled: whether texts name the classes.
    """

    wrapper: str = ""
    split: Literal["First", "Last"] | None = None
    is_labelled: bool = False


@dataclass(frozen=True)
class KnownClasses:
    """Class names that are known before a source is listed.

    Attributes:
        names: of the configuration and of the sources before this one.
        earlier_names: returns those of the dataset's earlier versions.
    """

    names: frozenset[str]
    earlier_names: Callable[[], Iterable[str]]

    def have_folder(self, folder: str) -> bool:
        """Whether a class has a folder, with a slash at its end, as the beginning of its name."""
        return _any_begins(self.names, folder)

    def end_with_split(self) -> bool:
        """Whether a class is that of a folder with the name of a split, such as rose/train."""
        return any("/" in name and folder_split(name.rpartition("/")[2]) for name in self.names)

    def keep_folder(self, folder: str) -> bool:
        """Whether a folder around everything stays in the names: also if it was in those of an earlier version."""
        return self.have_folder(folder) or _any_begins(self.earlier_names(), folder)


def find_arrangement(listing: ListingQueries, number: int, layout: str, known: KnownClasses) -> Arrangement:
    """Return the arrangement of a source.

    Args:
        listing: the listed files.
        number: of the source.
        layout: of the configuration; ``Auto`` decides by the names of the folders.
        known: class names that decide whether a folder is part of a class.
    """
    if layout == "Folders":
        return Arrangement()
    wrapper = _cut_before_split(listing.common_folder(number), known)
    folders = listing.top_folders(number, wrapper, limit=len(SPLIT_FOLDERS))
    has_splits = _are_splits(folders) and not any(known.have_folder(f"{name}/") for name in folders)
    # Without class folders below, a single folder that is named as a split is a class.
    several = has_splits and _are_several(folders)
    if layout == "ImageText" or (layout == "Auto" and _looks_labelled(listing, number, wrapper)):
        return Arrangement(wrapper, "First" if several else None, is_labelled=True)
    if several or (has_splits and listing.has_nested_folders(number, wrapper)):
        return Arrangement(wrapper, "First")
    inner = listing.inner_folders(number, wrapper, limit=len(SPLIT_FOLDERS))
    if _are_splits(inner) and _are_several(inner) and not known.end_with_split():
        return Arrangement(wrapper, "Last")
    if layout == "SplitFolders":
        return Arrangement(wrapper, "First")
    return Arrangement(_cut_known(wrapper, known))


def _cut_before_split(wrapper: str, known: KnownClasses) -> str:
    """Return the folders before the first one that is named as a split."""
    folders = wrapper.split("/")[:-1]
    for number, name in enumerate(folders):
        if folder_split(name) is not None and not known.have_folder(f"{name}/"):
            return "".join(f"{folder}/" for folder in folders[:number])
    return wrapper


def _cut_known(wrapper: str, known: KnownClasses) -> str:
    """Return the folders before those that are the beginning of a known class name."""
    folders = wrapper.split("/")[:-1]
    for number in range(len(folders)):
        if known.keep_folder("".join(f"{folder}/" for folder in folders[number:])):
            return "".join(f"{folder}/" for folder in folders[:number])
    if wrapper:
        logger.info("all images are below %s, which is no part of their classes", wrapper)
    return wrapper


def _are_splits(folders: Iterable[str]) -> bool:
    splits = {folder_split(name) for name in folders}
    return bool(splits) and None not in splits


def _are_several(folders: Iterable[str]) -> bool:
    splits = {folder_split(name) for name in folders}
    return "train" in splits and len(splits) > 1


def _looks_labelled(listing: ListingQueries, number: int, wrapper: str) -> bool:
    # Class folders, too, may hold a few notes.
    if not listing.has_texts(number) or not listing.is_flat(number, wrapper):
        return False
    images, labelled = listing.count_labelled(number, tuple(EXTENSIONS))
    return labelled > 0 and 2 * labelled >= images


def _any_begins(names: Iterable[str], folder: str) -> bool:
    normalized = normalize_class_name(folder)
    return any(name.startswith(normalized) for name in names)
