"""Images that cannot be decoded: they are named, counted and left out, up to a limit."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from bloomery_trainer.data.dataset import ImageFiles
from bloomery_trainer.errors import BadData

logger = logging.getLogger(__name__)

_TOLERATED_SHARE = 0.01
_TOLERATED_IMAGES = 10
_MAX_NAMES = 10


class UnreadableImage(Exception):
    """An image that cannot be decoded; the message begins with its name."""


class UnreadableImages:
    """The images of one split that could not be decoded so far.

    Worker processes that are forked after its creation write into the same memory, so that the process that reads
    their batches knows of every image that failed.
    """

    def __init__(self, files: ImageFiles) -> None:
        self._files = files
        self._failed = torch.zeros(len(files), dtype=torch.bool).share_memory_()  # type: ignore[no-untyped-call]

    def add(self, index: int, error: UnreadableImage) -> None:
        """Count an image; the first time, the log names it."""
        if not self._failed[index]:
            self._failed[index] = True
            logger.warning("%s; it is left out", error)

    def replacements(self, index: int) -> Iterator[int]:
        """Return the other images of the same class, beginning with the next one in the dataset's order."""
        same_class = np.flatnonzero(self._files.records["label"] == self._files.records["label"][index])
        position = int(np.searchsorted(same_class, index))
        yield from np.concatenate([same_class[position + 1 :], same_class[:position]]).tolist()

    @property
    def indices(self) -> tuple[int, ...]:
        """Their positions in the split, in order."""
        return tuple(self._failed.nonzero()[:, 0].tolist())

    @property
    def keys(self) -> tuple[str, ...]:
        """Their names at the source, in the dataset's order."""
        return tuple(self._files.key(index) for index in self.indices)

    def require_few(self) -> None:
        """Raise BadData if more images failed than may be left out: 1 % of them, or 10 if that is more."""
        images, failed = len(self._files), int(self._failed.sum())
        if failed > tolerated_images(images):
            raise BadData(
                "UnreadableImages",
                f"{failed} of {images} images cannot be decoded, and at most {tolerated_images(images)} may be left "
                f"out: {_listed(self.keys)}. Prepare the dataset again, without them",
            )

    def none_left(self, what: str) -> BadData:
        """Return the error where all images of something, such as a class, cannot be decoded."""
        return BadData(
            "UnreadableImages",
            f"no image of {what} can be decoded: {_listed(self.keys)}. Prepare the dataset again, with other images",
        )


def tolerated_images(images: int) -> int:
    """Return how many of so many images may be left out before a training fails: 1 %, at least 10."""
    return max(_TOLERATED_IMAGES, int(_TOLERATED_SHARE * images))


def unreadable_note(keys: Sequence[str]) -> str | None:
    """Return a sentence for people that names the images that were left out; None if there are none."""
    if not keys:
        return None
    if len(keys) == 1:
        return f"1 image could not be read and was left out: {keys[0]}"
    return f"{len(keys)} images could not be read and were left out: {_listed(keys)}"


def _listed(keys: Sequence[str]) -> str:
    more = len(keys) - _MAX_NAMES
    return ", ".join(keys[:_MAX_NAMES]) + (f" and {more} more" if more > 0 else "")
