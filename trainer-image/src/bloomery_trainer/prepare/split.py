"""Seeded train/validation/test split, by the content of each image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from bloomery_trainer.config import Split
from bloomery_trainer.errors import BadData
from bloomery_trainer.prepare.earlier_versions import EarlierSplit
from bloomery_trainer.prepare.file_table import FileTable


def split_files(files: FileTable, split: Split, find_earlier: Callable[[], EarlierSplit | None]) -> list[str]:
    """Give each image a split: that of its folder, that of the version before, or that of its digest and the seed.

    Neither the name of an image nor other images decide. If there are split folders but none for validation, its images
    are taken from those of ``train/``.

    Args:
        files: the table of all files.
        split: the shares and the seed.
        find_earlier: returns the split of the version before.

    Returns:
        Sentences for people about images that do not have the split of their folder, or of the shares and the seed.
    """
    folder_splits = files.splits.folder_splits()
    warnings = []
    if "train" in folder_splits and "validation" not in folder_splits:
        files.splits.release_train_folders()
        warnings.append(f"there is no validation/ folder: {split.validation:.0%} of train/ validate (split.validation)")
    files.splits.train_with_guesses()
    earlier = find_earlier() if files.splits.has_free_files() else None
    if earlier is not None:
        files.splits.keep(earlier.sides())
    files.splits.assign(validation=split.validation, test=0 if warnings and "test" in folder_splits else split.test)
    if earlier is not None and (
        earlier.settings != split.model_dump(mode="json", by_alias=True) or (warnings and _lacks_share(files, split))
    ):
        warnings.append(
            f"{files.splits.count_kept()} images keep the side that they have in the version before; only other images "
            "follow the new spec.split. A Dataset with another name splits all of them again"
        )
    return warnings


def _lacks_share(files: FileTable, split: Split) -> bool:
    """Return whether far fewer images than their share validate: those that trained before a folder was removed."""
    counts = Counter[str]()
    for (_, name), count in files.samples.count().items():
        counts[name] += count
    return counts["validation"] < split.validation / 2 * (counts["train"] + counts["validation"])


def require_all_splits(files: FileTable) -> None:
    """Refuse a dataset of which too little is left to train and to validate.

    Raises:
        BadData: there is no image for validation, or no training image of a class is left beside its copies.
    """
    counts = files.samples.count()
    if not any(split_name == "validation" for _, split_name in counts):
        raise BadData(
            "NoValidation",
            f"none of the {sum(counts.values())} images is left for validation; add images or raise its share",
        )
    name = files.quality.find_class_without_training()
    if name is not None:
        raise BadData(
            "NoTraining",
            f"class {name!r} has no image left to train with: each is a copy of a held-out image or of one in another "
            "class; add images, or set rules.leaks to Keep",
        )
