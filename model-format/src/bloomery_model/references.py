"""Reference answers: held-out images with what the published model answered, so that another engine can be compared.

A training writes them beside the model, and an evaluation adds them to a folder that lacks them. ``references`` of
``metadata.json``, or of ``statistics.json`` beside a model without one, has the file's digest; the model's own digest
does not cover them, because they change no answer.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from bloomery_model.decode import Pixels
from bloomery_model.onnx_classifier import Scores

REFERENCES = "references.npz"
"""A file of NumPy's: ``images`` uint8 [N, crop, crop, 3] and ``probabilities`` float32 [N, classes]."""

SECTION = "references"
"""The name of their description in the document beside them."""

REFERENCE_IMAGES = 64
"""Spread over the held-out images: enough to find an engine that answers otherwise, in seconds."""

MOST_DIFFERENCE = 0.02
"""Of a probability, for answers that agree: the second digit of a score is what people read."""
MARGIN = 2 * MOST_DIFFERENCE
"""Distance of the two highest probabilities beyond which an answer that agrees has the same class."""

_MAX_BYTES = 256 * 1024**2
"""A file from elsewhere must not fill the memory."""


class ReferencesError(ValueError):
    """References that cannot be used; the message is a sentence without its full stop."""


@dataclass(frozen=True)
class Agreement:
    """How far answers are from the references.

    Attributes:
        images: the number of references.
        largest_difference: of a probability.
        other_classes: images whose class is another, although the reference's margin exceeds MARGIN.
    """

    images: int
    largest_difference: float
    other_classes: int

    @property
    def holds(self) -> bool:
        """Whether the answers agree."""
        return self.other_classes == 0 and self.largest_difference <= MOST_DIFFERENCE


@dataclass(frozen=True)
class References:
    """Images as the model sees them before they are normalised, and the probabilities that it gave them."""

    images: Pixels
    probabilities: Scores

    @classmethod
    def read(cls, path: Path, *, side: int, classes: int) -> Self:
        """Read the file of a model.

        Args:
            path: the file.
            side: of the model's images.
            classes: the number of the model's classes.

        Raises:
            ReferencesError: there is no such file, it is damaged, or it is of another model.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                if sum(member.file_size for member in archive.infolist()) > _MAX_BYTES:
                    raise ReferencesError(f"{path.name} is larger than {_MAX_BYTES >> 20} MiB")
            with np.load(path, allow_pickle=False) as arrays:
                references = cls(arrays["images"], arrays["probabilities"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ReferencesError(f"{path.name} cannot be read: {error}") from error
        references._require_form(path.name, side=side, classes=classes)
        return references

    def write(self, path: Path) -> None:
        """Write the file."""
        np.savez(path, images=self.images, probabilities=self.probabilities)

    def compare(self, probabilities: Scores) -> Agreement:
        """Compare other probabilities for the same images, float32 [N, classes]."""
        highest = np.sort(self.probabilities, axis=1)[:, -2:]
        is_clear = highest[:, -1] - highest[:, 0] > MARGIN if highest.shape[1] > 1 else np.ones(len(highest), bool)
        is_other = probabilities.argmax(axis=1) != self.probabilities.argmax(axis=1)
        difference = np.abs(probabilities - self.probabilities)
        # No comparison with NaN holds.
        largest = float(difference.max()) if np.isfinite(difference).all() else float("inf")
        return Agreement(len(self.images), largest, int((is_clear & is_other).sum()))

    def _require_form(self, name: str, *, side: int, classes: int) -> None:
        count = len(self.images) if self.images.ndim else 0
        expected: list[tuple[NDArray[Any], tuple[int, ...], type[np.generic]]] = [
            (self.images, (count, side, side, 3), np.uint8),
            (self.probabilities, (count, classes), np.float32),
        ]
        if not count or any(array.shape != shape or array.dtype != kind for array, shape, kind in expected):
            raise ReferencesError(
                f"{name} has images {list(self.images.shape)} with probabilities {list(self.probabilities.shape)}, not "
                f"[N, {side}, {side}, 3] with [N, {classes}], as this model has them"
            )


def described_digest(document: Mapping[str, Any]) -> str | None:
    """Return the digest of REFERENCES in a document that describes them; None if it does not."""
    section = document.get(SECTION)
    digest = section.get("digest") if isinstance(section, Mapping) else None
    return digest if isinstance(digest, str) else None
