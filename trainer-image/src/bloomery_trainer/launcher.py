"""PID 1 of the container: turns whatever happens into an exit code, a termination message and a log.

Exit codes: 0 done, 2 bad configuration, 3 bad data, 143 after SIGTERM, 1 for all else.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from bloomery_trainer import config, termination
from bloomery_trainer.errors import BadConfig, TrainerError
from bloomery_trainer.progress import Progress, ProgressServer

log = logging.getLogger("bloomery_trainer")

TERMINATED = 143


def launch(kind: str, config_path: Path) -> int:
    """Runs the command `kind` ("prepare" or "train") by its configuration and returns the exit code."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname).1s %(message)s", datefmt="%H:%M:%S"
    )
    message_path = Path(os.environ.get("TERMINATION_LOG") or "/dev/termination-log")
    signal.signal(signal.SIGTERM, _end_at_once(message_path))
    progress = Progress(stage="starting")
    try:
        server = _serve(progress, kind)
        try:
            message = _work(kind, config_path)(progress)
        finally:
            if server is not None:
                server.stop()
    except TrainerError as error:
        log.error("%s", error)
        termination.write(message_path, termination.failure(error.reason, str(error)))
        return error.exit_code
    except Exception as error:
        log.exception("this should not have happened")
        termination.write(message_path, termination.failure("InternalError", f"{type(error).__name__}: {error}"))
        return 1
    termination.write(message_path, message)
    return 0


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


def _end_at_once(message_path: Path) -> Callable[[int, FrameType | None], NoReturn]:
    def end(_signal: int, _frame: FrameType | None) -> NoReturn:
        # No exception: a library could swallow it, and threads could hold up the exit.
        with suppress(OSError):
            os.write(sys.stderr.fileno(), b"asked to stop (SIGTERM)\n")
            termination.write(message_path, termination.failure("Terminated", "the pod was asked to stop"))
        os._exit(TERMINATED)

    return end
