"""PID 1 of the container: turns whatever happens into an exit code, a termination message and a log.

Exit codes: 0 done, 2 bad configuration, 3 bad data, 143 after SIGTERM, 1 for all else.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bloomery_trainer import config, termination
from bloomery_trainer.errors import BadConfig, TrainerError
from bloomery_trainer.progress import Progress, ProgressServer

log = logging.getLogger("bloomery_trainer")

TERMINATED = 143


def launch(kind: str, config_path: Path) -> int:
    """Runs the command `kind` ("prepare" or "train") by its configuration and returns the exit code."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s %(levelname).1s %(message)s",
        datefmt="%H:%M:%S",
    )
    log.setLevel(logging.INFO)
    message_path = Path(os.environ.get("TERMINATION_LOG") or "/dev/termination-log")
    with _ending_on_sigterm(message_path):
        code, message = _run(kind, config_path)
    termination.write(message_path, message)
    return code


def _run(kind: str, config_path: Path) -> tuple[int, dict[str, Any]]:
    """The exit code and the termination message."""
    progress = Progress(stage="starting")
    try:
        server = _serve(progress, kind)
        try:
            return 0, _work(kind, config_path)(progress)
        finally:
            if server is not None:
                server.stop()
    except TrainerError as error:
        log.error("%s", error)
        return error.exit_code, termination.failure(error.reason, str(error))
    except Exception as error:
        log.exception("this should not have happened")
        return 1, termination.failure("InternalError", f"{type(error).__name__}: {error}")


def _work(kind: str, path: Path) -> Callable[[Progress], dict[str, Any]]:
    settings = config.load(path)
    if settings.kind != kind:
        raise BadConfig("InvalidConfig", f"{path.name} is a configuration to {settings.kind}, not to {kind}")
    # Imported only now: preparing images needs no torch, and loading it takes seconds.
    if isinstance(settings, config.PrepareConfig):
        from bloomery_trainer.prepare.run import prepare

        return lambda progress: prepare(settings, progress)
    from bloomery_trainer.train.run import train

    return lambda progress: train(settings, progress)


def _serve(progress: Progress, kind: str) -> ProgressServer | None:
    port = int(os.environ.get("BLOOMERY_PORT") or 8089)
    if port == 0:
        return None
    try:
        server = ProgressServer(progress, kind=kind, port=port)
    except OSError as error:
        # On a laptop the port may be taken; nobody asks for the progress there.
        log.warning("port %d is not free (%s): progress is in this log only", port, error.strerror)
        return None
    server.start()
    return server


@contextmanager
def _ending_on_sigterm(message_path: Path) -> Iterator[None]:
    """Ends the process at once on SIGTERM, with a message, whatever it is doing.

    A Python signal handler would wait until the main thread comes back from compiled code (a store that hangs, a
    long computation). The byte that the interpreter writes to the wake-up descriptor does not wait.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader, message_path), name="signals", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, before)
        os.close(writer)


def _watch(reader: int, message_path: Path) -> None:
    while received := os.read(reader, 1):
        if received[0] == signal.SIGTERM:
            with suppress(OSError):
                os.write(sys.stderr.fileno(), b"asked to stop (SIGTERM)\n")
                termination.write(message_path, termination.failure("Terminated", "the pod was asked to stop"))
            os._exit(TERMINATED)
    os.close(reader)


def _forget_signals() -> None:
    """In a forked worker process: its SIGTERM is its own, not this process's."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


os.register_at_fork(after_in_child=_forget_signals)
