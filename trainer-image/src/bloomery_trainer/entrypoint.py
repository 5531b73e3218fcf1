"""PID 1 of the container: turns the outcome of a command into an exit code, a termination message and a log.

Exit codes: 0 done, 2 bad configuration, 3 bad data, 75 a peer was lost, 143 after SIGTERM, 1 for all else.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from bloomery_model import termination
from bloomery_trainer import config
from bloomery_trainer.errors import BadConfig, TrainerError
from bloomery_trainer.progress_server import Progress, ProgressServer
from bloomery_trainer.shutdown import TERMINATED_EXIT_CODE, Shutdown, Terminated, listening

logger = logging.getLogger("bloomery_trainer")

Command = Callable[[Progress, Shutdown], dict[str, Any]]


def launch(command: str, config_path: Path) -> int:
    """Run a command ("prepare", "train" or "register") by its configuration and return the exit code."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s %(levelname).1s %(message)s",
        datefmt="%H:%M:%S",
    )
    logger.setLevel(logging.INFO)
    message_path = termination.path_from(os.environ)
    shutdown = Shutdown()
    with listening(shutdown, at_once=lambda: _end_at_once(message_path)):
        code, message = _run(command, config_path, shutdown)
    termination.write(message_path, message)
    return code


def _run(command: str, config_path: Path, shutdown: Shutdown) -> tuple[int, dict[str, Any]]:
    """Return the exit code and the termination message."""
    progress = Progress(stage="starting")
    try:
        count = _count_processes(command)
        if count > 1:
            from bloomery_trainer.distributed import processes

            return processes.run(config_path, count, shutdown)
        server = _start_progress_server(progress, command, shutdown)
        try:
            return 0, _load_command(command, config_path)(progress, shutdown)
        finally:
            if server is not None:
                server.stop()
    except Terminated:
        return TERMINATED_EXIT_CODE, _termination_message()
    except TrainerError as error:
        logger.error("%s", error)
        return error.exit_code, termination.failure(error.reason, str(error))
    except Exception as error:
        shortage = explain_memory(error)
        if shortage is not None:
            logger.exception("%s", shortage)
            return 1, termination.failure("OutOfMemory", shortage)
        logger.exception("unexpected error")
        return 1, termination.failure("InternalError", f"{type(error).__name__}: {error}")


def _load_command(command: str, path: Path) -> Command:
    settings = config.load(path)
    if settings.kind != {"register": "train"}.get(command, command):
        raise BadConfig("InvalidConfig", f"{path.name} is a configuration to {settings.kind}, not to {command}")
    # Imported only now: preparing images needs no torch, and loading it takes seconds.
    if isinstance(settings, config.PrepareConfig):
        from bloomery_trainer.prepare.command import prepare

        return lambda progress, _: prepare(settings, progress)
    if command == "register":
        from bloomery_trainer.commands.register import register

        return lambda _progress, _shutdown: register(settings)
    from bloomery_trainer.commands.train import train

    return lambda progress, shutdown: train(settings, progress, shutdown)


def _count_processes(command: str) -> int:
    if command != "train":
        return 1
    from bloomery_trainer.distributed import processes

    return processes.count()


def _start_progress_server(progress: Progress, kind: str, shutdown: Shutdown) -> ProgressServer | None:
    port = int(os.environ.get("BLOOMERY_PORT") or 8089)
    if port == 0:
        return None
    try:
        token = os.environ.get("BLOOMERY_STOP_TOKEN")
        server = ProgressServer(progress, kind=kind, port=port, stop=shutdown.stop, token=token)
    except OSError as error:
        # On a laptop the port may be taken; the progress is not needed there.
        logger.warning("port %d is not free (%s): progress is in this log only", port, error.strerror)
        return None
    server.start()
    return server


def _end_at_once(message_path: Path) -> None:
    with suppress(OSError):
        termination.write(message_path, _termination_message())
    os._exit(TERMINATED_EXIT_CODE)


_GPU_SHORTAGES = ("CUDA out of memory", "CUDA error: out of memory", "_STATUS_ALLOC_FAILED")
_HOST_SHORTAGES = (
    "DefaultCPUAllocator",
    "is killed by signal: Killed",
    "exited unexpectedly",
    "insufficient shared memory",
)


def explain_memory(error: Exception) -> str | None:
    """Explain what to do about a lack of memory; return None for all other errors.

    PyTorch is not imported for this: its errors are known by their names and words.
    """
    text = str(error)
    line = (text.splitlines() or [""])[0][:300]
    if type(error).__name__ == "OutOfMemoryError" or any(words in text for words in _GPU_SHORTAGES):
        return (
            f"the GPU has too little memory for this training: {line}; lower hyperparameters.batchSize or imageSize, "
            "or choose a smaller preset or a larger GPU"
        )
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(w in text for w in _HOST_SHORTAGES)):
        return (
            f"the pod has too little memory for this work{f': {line}' if line else ''}; raise resources.limits.memory, "
            "or lower hyperparameters.batchSize or imageSize"
        )
    return None


def _termination_message() -> dict[str, Any]:
    return termination.failure("Terminated", "the pod was asked to stop")
