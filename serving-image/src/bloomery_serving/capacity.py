"""The work that this container's limits allow at a time: workers, and bytes of bodies and of decoded images."""

from __future__ import annotations

from dataclasses import dataclass

from bloomery_model.cgroup import cpu_count, memory_bytes
from bloomery_serving.settings import Settings

MIB = 1024 * 1024
LARGE_DECODING_BYTES = 16 * MIB
"""Requests whose images take more memory while they are decoded wait in a queue of their own."""
_BYTES_PER_WORKER = 8 * LARGE_DECODING_BYTES
"""Memory of the container for each worker, so that their small images take an eighth of it together."""


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """Limits of one server.

    Attributes:
        workers: predictions that run side by side.
        decoding_bytes: memory of all large images that are decoded at a time; one alone may take more.
        queue_bytes: bytes of the bodies of all requests together.
        max_body_bytes: bytes of one body.
        process_bytes: bytes of the process without images and bodies: its code and its network.
    """

    workers: int
    decoding_bytes: int
    queue_bytes: int
    max_body_bytes: int
    process_bytes: int

    @classmethod
    def of(cls, settings: Settings, *, processors: int, memory: int) -> Capacity:
        """Share ``memory`` bytes: a quarter for large images, an eighth for small ones, a sixth for bodies."""
        return cls(
            # Without a limit of its processors, a container has as many as the node, and no more memory.
            workers=max(1, min(processors, memory // _BYTES_PER_WORKER)),
            decoding_bytes=memory // 4,
            queue_bytes=min(settings.queue_bytes, memory // 6),
            # Base64 in JSON is held twice while it is parsed.
            max_body_bytes=min(settings.max_body_bytes, memory // 6),
            process_bytes=memory - memory // 4 - memory // 8 - memory // 6,
        )

    @classmethod
    def of_container(cls, settings: Settings) -> Capacity:
        """Return the capacity by the limits of this process' cgroup."""
        return cls.of(settings, processors=cpu_count(), memory=settings.memory_bytes or memory_bytes())
