"""The interface of decoded images at random access."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class PixelSource(Protocol):
    """Decoded images at random access, uint8 [3, H, W]."""

    def __len__(self) -> int:
        """Return the number of images."""

    def pixels(self, index: int) -> Tensor:
        """Return one image."""
