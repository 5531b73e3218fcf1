"""Work that SIGTERM ends at once, also in a container's first process and while native code runs."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import TypeVar

R = TypeVar("R")

_CHECK_SECONDS = 0.5
"""The longest time after which a signal is noticed that another thread got, or that came just before the wait."""


def run_until_stopped(work: Callable[[], R], *, on_stop: Callable[[], None]) -> R:
    """Return the result of the work, or raise its exception.

    The first process of a container ignores a signal for which it has no handler, and Python runs handlers in the main
    thread alone, which no native code may hold: another one does the work.

    Args:
        work: runs in a thread of its own.
        on_stop: called on SIGTERM; has to end the process.
    """
    outcome: list[tuple[R] | BaseException] = []

    def run_in_thread() -> None:
        try:
            outcome.append((work(),))
        except BaseException as error:
            outcome.append(error)

    signal.signal(signal.SIGTERM, lambda *_: on_stop())
    thread = threading.Thread(target=run_in_thread, name="work", daemon=True)
    thread.start()
    while thread.is_alive():
        # A wait without a limit would last until the work is done, if the kernel wakes another thread for the signal.
        thread.join(_CHECK_SECONDS)
    match outcome[0]:
        case BaseException() as error:
            raise error
        case (result,):
            return result
