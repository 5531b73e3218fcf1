"""Requests to end: by Kubernetes (SIGTERM), or by a person (``stop``)."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from bloomery_model.signals import on_sigterm

TERMINATED_EXIT_CODE = 143
"""Of a process that ended on SIGTERM."""


class Terminated(Exception):
    """The work ended on SIGTERM, with all saved that can be."""


class Shutdown:
    """Requests to end. Work that can save itself announces it by ``deferring``; all other work ends immediately."""

    def __init__(self) -> None:
        self._terminate = threading.Event()
        self._stop = threading.Event()
        self._deferred = threading.Event()

    @property
    def terminating(self) -> bool:
        """Whether the process has to end soon."""
        return self._terminate.is_set()

    @property
    def stopping(self) -> bool:
        """Whether the work should come to its end early, with what it has."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Ask the work to come to its end early."""
        self._stop.set()

    def terminate(self) -> bool:
        """Ask the process to end; return whether the work has promised to check."""
        self._terminate.set()
        return self._deferred.is_set()

    @contextmanager
    def deferring(self) -> Iterator[None]:
        """Let the work in the block check ``terminating`` itself and raise Terminated once it has saved."""
        self._deferred.set()
        try:
            yield
        finally:
            self._deferred.clear()
        if self.terminating:
            raise Terminated


@contextmanager
def listening(shutdown: Shutdown, *, at_once: Callable[[], None]) -> Iterator[None]:
    """Pass SIGTERM to ``shutdown``; if nobody defers it, call ``at_once``, which has to end the process."""

    def terminate() -> None:
        with suppress(OSError):
            os.write(sys.stderr.fileno(), b"asked to stop (SIGTERM)\n")
        if not shutdown.terminate():
            at_once()

    with on_sigterm(terminate):
        yield
