"""The transfer of a model to this machine: its progress, and the room that it may take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from bloomery_serving.errors import ModelError

_GIB = 1024**3


class Transfer:
    """Counts what is fetched, and ends a fetch that exceeds the room for it."""

    def __init__(self, *, max_bytes: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin; ``max_bytes`` is the room, 0 any."""
        self._max_bytes = max_bytes
        self._clock = clock
        self._progressed = clock()
        self._received = 0

    @property
    def seconds_without_progress(self) -> float:
        """The seconds since bytes arrived, or something else was done."""
        return self._clock() - self._progressed

    def note_progress(self) -> None:
        """Note that something was done."""
        self._progressed = self._clock()

    def require_room(self, uri: str, sizes: Iterable[int]) -> None:
        """Check the size of files before they are fetched.

        Raises:
            ModelError: there is not enough room for them.
        """
        total = sum(sizes)
        if self._max_bytes and total > self._max_bytes:
            raise self._too_large(uri, f"has {total / _GIB:.2f} GiB")

    def count(self, uri: str, size: int) -> None:
        """Count bytes that arrived: a store may list other sizes, or none.

        Raises:
            ModelError: they are more than there is room for.
        """
        self.note_progress()
        self._received += size
        if self._max_bytes and self._received > self._max_bytes:
            raise self._too_large(uri, f"has more than {self._max_bytes / _GIB:.2f} GiB")

    def _too_large(self, uri: str, has: str) -> ModelError:
        message = (
            f"The model at {uri} {has}, and its pod has room for {self._max_bytes / _GIB:.2f} GiB: "
            "raise the variant's scratch if the address is right."
        )
        return ModelError("ModelTooLarge", message)
