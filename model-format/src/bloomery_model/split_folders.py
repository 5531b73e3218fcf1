"""The splits, and the names of folders that stand for them."""

from __future__ import annotations

SPLITS = ("train", "validation", "test")
SPLIT_FOLDERS = {
    "train": "train", "training": "train", "trainval": "train",
    "validation": "validation", "val": "validation", "valid": "validation", "dev": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
"""The split of each folder name in lower case."""


def folder_split(name: str) -> str | None:
    """Return the split that a folder's name stands for, if any."""
    return SPLIT_FOLDERS.get(name.strip().lower())


def begins_with_split(class_name: str) -> bool:
    """Whether a class name is that of a folder in a folder with the name of a split."""
    top, slash, _ = class_name.partition("/")
    return bool(slash) and folder_split(top) is not None
