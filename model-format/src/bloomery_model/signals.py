"""SIGTERM that takes effect at once, also in a container's first process and while native code runs."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def on_sigterm(callback: Callable[[], None]) -> Iterator[None]:
    """Call a function, in a thread of its own, when the process gets SIGTERM while the block runs.

    A Python signal handler would wait until the main thread comes back from native code: a store that hangs, a long
    computation. The byte that the interpreter writes to the wake-up descriptor does not wait, whichever thread the
    kernel gives the signal to. The main thread alone may enter the block.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    # The first process of a container ignores a signal for which it has no handler.
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader, callback), name="signals", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, before)
        os.close(writer)


def _watch(reader: int, callback: Callable[[], None]) -> None:
    while received := os.read(reader, 1):
        if received[0] == signal.SIGTERM:
            callback()
    os.close(reader)


def _forget_signals() -> None:
    """Restore the default SIGTERM in a forked worker process."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


os.register_at_fork(after_in_child=_forget_signals)
