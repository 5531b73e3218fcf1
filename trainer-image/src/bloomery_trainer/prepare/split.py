"""Stratified, seeded train/validation/test split."""

from __future__ import annotations

from fractions import Fraction

from bloomery_trainer.config import Split
from bloomery_trainer.errors import BadData
from bloomery_trainer.prepare.file_table import FileTable

SPLITS = ("train", "validation", "test")
SPLIT_FOLDERS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
"""The split of each folder name."""


def split_files(files: FileTable, split: Split) -> None:
    """Give each image that is in no split folder a split: each share of a class is rounded down, the rest trains.

    The content of an image and the seed decide whether it is held out, not its name or other images.

    Raises:
        BadData: no image is left for validation.
    """
    files.splits.start()
    for name in files.inspection.count_by_class():
        unassigned = files.splits.count_unassigned(name)
        files.splits.assign(
            name,
            validation=share_of(unassigned, split.validation),
            test=share_of(unassigned, split.test),
        )
    counts = files.samples.count()
    if not any(split_name == "validation" for _, split_name in counts):
        raise BadData(
            "NoValidation",
            f"none of the {sum(counts.values())} images is left for validation; add images or raise its share",
        )


def share_of(count: int, share: float) -> int:
    """Return ``count`` × ``share`` rounded down, in decimals: 29 % of 100 is 29, in binary fractions less."""
    return int(count * Fraction(str(share)))
