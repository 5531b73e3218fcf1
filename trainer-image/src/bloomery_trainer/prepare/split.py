"""Who learns and who examines: the stratified, seeded split."""

from __future__ import annotations

from fractions import Fraction

from bloomery_trainer.config import Split
from bloomery_trainer.errors import BadData
from bloomery_trainer.prepare.file_table import Index


def assign(index: Index, split: Split) -> None:
    """Gives every image without a split one: of each class, each share rounded down, the rest trains.

    Which images are held out depends on their content and the seed alone, not on names or on other images.
    """
    index.index_samples()
    for name in index.class_counts():
        free = index.count_free(name)
        index.draw(name, validation=share_of(free, split.validation), test=share_of(free, split.test))
    counts = index.counts()
    if not any(held_out == "validation" for _, held_out in counts):
        raise BadData(
            "NoValidation",
            f"none of the {sum(counts.values())} images is left for validation; add images or raise its share",
        )


def share_of(count: int, share: float) -> int:
    """`count` × `share` rounded down, exact: 29 % of 100 is 29, whatever binary fractions say."""
    return int(count * Fraction(str(share)))
