"""Shared parts of the HTTP clients: bodies of limited size, and a circuit breaker."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import aiohttp


async def read_limited(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """Return the body of a response.

    Raises:
        ValueError: the body has more than ``max_bytes`` bytes; the rest is not read.
    """
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > max_bytes:
            raise ValueError(f"the answer is longer than {max_bytes} bytes")
    return bytes(content)


@dataclass(frozen=True)
class _OpenCircuit:
    detail: str
    until: float


class CircuitBreaker:
    """Fails requests at once while their server is known not to answer.

    After a failed request the circuit of its server stays open for ``open_seconds``. The first request after that is
    the probe: until it ends, and for at most ``probe_seconds``, all others still fail at once. So a server that hangs
    delays one request at a time.
    """

    def __init__(
        self, *, open_seconds: float, probe_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start with all circuits closed; ``clock`` gives seconds."""
        self._open_seconds = open_seconds
        self._probe_seconds = probe_seconds
        self._clock = clock
        self._open: dict[str, _OpenCircuit] = {}

    @contextmanager
    def guard(self, server: str) -> Iterator[None]:
        """Send one request to the server within the block.

        Raises:
            TimeoutError: the circuit is open; the message is that of the last failure.
        """
        circuit = self._open.get(server)
        if circuit is not None:
            if self._clock() < circuit.until:
                raise TimeoutError(circuit.detail)
            self._trip(server, circuit.detail, self._probe_seconds)
        try:
            yield
        except (aiohttp.ClientError, TimeoutError) as error:
            self._trip(server, describe_error(error, self._probe_seconds), self._open_seconds)
            raise
        self._open.pop(server, None)

    def _trip(self, server: str, detail: str, seconds: float) -> None:
        self._open[server] = _OpenCircuit(detail, self._clock() + seconds)


def describe_error(error: Exception, timeout_seconds: float) -> str:
    """Return why a request failed; aiohttp's timeouts have no text of their own."""
    if text := str(error):
        return text
    return f"no answer within {timeout_seconds:.0f} s" if isinstance(error, TimeoutError) else type(error).__name__
