"""The host memory that decoded images may take."""

from __future__ import annotations

import weakref

DEFAULT_SHARE = 0.3
"""Of a process's memory, what decoded images may take where nothing is known of the network's needs."""


_SPARE_PARTS = 10


class MemoryBudget:
    """Bytes of host memory for decoded images, shared by all image sources of one process.

    Args:
        limit_bytes: the memory of this process, all its uses together.
        reserved_bytes: what the process needs besides decoded images: the interpreter, the network, a training step.
    """

    def __init__(self, limit_bytes: int, *, reserved_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._reserved_bytes = reserved_bytes
        self._used_bytes = 0

    @classmethod
    def for_process(
        cls, memory_bytes: int, *, processes: int = 1, reserved_bytes: int | None = None, share: float = DEFAULT_SHARE
    ) -> MemoryBudget:
        """Return the budget of one of several processes that share a container's memory.

        Args:
            memory_bytes: the limit of the container.
            processes: the number of processes in it.
            reserved_bytes: what each of them needs for other things.
            share: of a process's memory, what is left to images where ``reserved_bytes`` is not given.
        """
        limit_bytes = memory_bytes // processes
        if reserved_bytes is None:
            reserved_bytes = limit_bytes - int(share * limit_bytes)
        return cls(limit_bytes, reserved_bytes=reserved_bytes)

    @property
    def available_bytes(self) -> int:
        """The bytes that are left for more images; never below 0."""
        return max(0, self._limit_bytes - self._reserved_bytes - self._used_bytes)

    def reserve(self, reserved_bytes: int) -> None:
        """Set what the process is estimated to need besides images; a tenth of its memory stays free beyond that.

        Images that are in memory already stay there.
        """
        self._reserved_bytes = reserved_bytes + self._limit_bytes // _SPARE_PARTS

    def hold(self, owner: object, size_bytes: int) -> None:
        """Count bytes as used until ``owner`` is garbage collected."""
        self._used_bytes += size_bytes
        weakref.finalize(owner, self._release, size_bytes).atexit = False

    def _release(self, size_bytes: int) -> None:
        self._used_bytes -= size_bytes
