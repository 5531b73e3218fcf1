"""Barriers that last as long as the work before them, and end early only where a process is gone.

The collectives of torch.distributed have one timeout for all: too short for a download of hours, too long for a
process that died. Here each process sets a heartbeat in the rendezvous store, and a barrier fails only where the
heartbeat of a missing process stops or that process reports its own failure.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field

from torch._C._distributed_c10d import Store

from bloomery_trainer.errors import PeerLost

HEARTBEAT_SECONDS = 5.0
SILENCE_SECONDS = 600.0
"""A process without a heartbeat for so long is lost: longer than a node that is out of memory stalls."""

_SHORTEST_POLL_SECONDS = 0.005
_LONGEST_POLL_SECONDS = 0.5
_PREFIX = "bloomery"


@dataclass
class _Pulse:
    """The last heartbeat of another process, and when it changed (monotonic)."""

    beat: bytes = b""
    changed: float = field(default_factory=time.monotonic)


class Liveness:
    """Heartbeats and barriers of the processes ``0 … size - 1`` that share a rendezvous store.

    All processes call ``barrier`` the same number of times. Every method may raise what the store raises where the
    store itself, and so process 0, is gone.
    """

    def __init__(
        self,
        store: Store,
        *,
        rank: int,
        size: int,
        heartbeat: float = HEARTBEAT_SECONDS,
        silence: float = SILENCE_SECONDS,
    ) -> None:
        self._store = store
        # A client of its own: a blocking request of the main thread would hold up the heartbeat.
        self._client = store.clone()
        self._rank, self._size = rank, size
        self._heartbeat, self._silence = heartbeat, silence
        self._barriers = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Start to set the heartbeat, from a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """End the heartbeat."""
        self._ended.set()
        self._thread.join(timeout=self._heartbeat)

    def barrier(self) -> None:
        """Wait until all processes have come to this barrier.

        Raises:
            PeerLost: one of them has failed, or its heartbeat has stopped.
        """
        self._barriers += 1
        name = f"{_PREFIX}/barrier/{self._barriers}"
        self._store.set(f"{name}/{self._rank}", "1")
        self.wait_for({rank: f"{name}/{rank}" for rank in range(self._size) if rank != self._rank})

    def wait_for(self, keys: dict[int, str]) -> None:
        """Wait until each of those processes has set its key in the store.

        Raises PeerLost as ``barrier`` does.
        """
        pulses = {rank: _Pulse() for rank in keys}
        poll, examined = _SHORTEST_POLL_SECONDS, time.monotonic()
        while not self._store.check(list(keys.values())):
            if time.monotonic() - examined >= self._heartbeat:
                examined = time.monotonic()
                self._examine({rank: pulse for rank, pulse in pulses.items() if not self._store.check([keys[rank]])})
            time.sleep(poll)
            poll = min(2 * poll, _LONGEST_POLL_SECONDS)

    def report_failure(self, error: BaseException) -> None:
        """Report to the other processes that this one is about to end, and why."""
        with suppress(RuntimeError):
            self._store.set(f"{_PREFIX}/failure/{self._rank}", f"{type(error).__name__}: {error}"[:300])

    def failure(self) -> str | None:
        """Return the reason of the first process that reported a failure, if there is one and the store answers."""
        with suppress(RuntimeError):
            for rank in range(self._size):
                key = f"{_PREFIX}/failure/{rank}"
                if rank != self._rank and self._store.check([key]):
                    return f"process {rank + 1} of {self._size} ended: {self._store.get(key).decode(errors='replace')}"
        return None

    def _beat(self) -> None:
        number = 0
        while not self._ended.is_set():
            number += 1
            try:
                self._client.set(f"{_PREFIX}/heartbeat/{self._rank}", str(number))
            except RuntimeError:
                return
            self._ended.wait(self._heartbeat)

    def _examine(self, missing: dict[int, _Pulse]) -> None:
        failure = self.failure()
        if failure is not None:
            raise PeerLost("PeerLost", f"another process of this training went away: {failure}")
        for rank, pulse in missing.items():
            key = f"{_PREFIX}/heartbeat/{rank}"
            beat = self._store.get(key) if self._store.check([key]) else b""
            if beat != pulse.beat:
                pulse.beat, pulse.changed = beat, time.monotonic()
            if time.monotonic() - pulse.changed > self._silence:
                raise PeerLost(
                    "PeerLost",
                    f"another process of this training went away: process {rank + 1} of {self._size} has not been "
                    f"heard of for {self._silence:.0f} s",
                )
