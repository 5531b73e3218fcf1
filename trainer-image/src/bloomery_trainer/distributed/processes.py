"""Several training processes on one node, one for each GPU: they start, stop and fail as one.

torchrun is not used, for two reasons. It ends with exit code 1 whatever the code of a worker was, but the Job's
``podFailurePolicy`` goes by that code. And it kills the workers 30 seconds after a failure or SIGTERM, but a worker may
need the pod's whole grace period to save its last checkpoint.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bloomery_model import termination
from bloomery_trainer.distributed import devices
from bloomery_trainer.errors import BadConfig, PeerLost
from bloomery_trainer.shutdown import TERMINATED_EXIT_CODE, Shutdown

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
_PEERS_SECONDS = 60.0
"""The time for the others to notice that one of them has failed."""

_SAVING_SECONDS = 280.0
"""The time for the others to save after one has ended on SIGTERM: the pod's grace period less some seconds."""


def count() -> int:
    """Return the number of processes for this node: $BLOOMERY_PROCESSES, else one a GPU, and one without GPUs.

    Raises:
        BadConfig: the pod was given GPUs that cannot be used.
    """
    if "LOCAL_RANK" in os.environ:
        return 1
    gpus = devices.detect()
    devices.require_usable(gpus)
    requested = os.environ.get("BLOOMERY_PROCESSES")
    if requested:
        return _positive(requested)
    processes = devices.process_count(gpus)
    if processes < max(gpus.nvml, gpus.cuda):
        logger.warning("of several slices of a GPU (MIG), one is used: they cannot train one model together")
    return processes


def run(config_path: Path, processes: int, shutdown: Shutdown) -> tuple[int, dict[str, Any]]:
    """Run so many processes; return the exit code and the termination message of the first that failed."""
    with tempfile.TemporaryDirectory(prefix="bloomery-") as scratch:
        folder = Path(scratch)
        # Where pods share the node's network, a fixed port would be another training's, too.
        rendezvous = os.environ.get("BLOOMERY_RENDEZVOUS") or f"127.0.0.1:{_free_port()}"
        with shutdown.deferring():
            started = [_start(config_path, rank, processes, folder, rendezvous) for rank in range(processes)]
            failed = _wait(started, shutdown)
        rank = 0 if failed is None else failed
        code = started[rank].returncode
        # A process that was killed by signal 9 ends as its container would: with 137.
        return (code if code >= 0 else 128 - code), _message(folder, rank, code)


def _positive(requested: str) -> int:
    if not requested.isdecimal() or int(requested) < 1:
        raise BadConfig(
            "InvalidConfig", f"BLOOMERY_PROCESSES must be the number of training processes, not {requested!r}"
        )
    return int(requested)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _start(config_path: Path, rank: int, processes: int, scratch: Path, rendezvous: str) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(processes),
        "TERMINATION_LOG": str(scratch / f"message-{rank}"),
        "BLOOMERY_SCRATCH": scratch.as_posix(),
        "BLOOMERY_RENDEZVOUS": rendezvous,
    }
    if rank:
        environment["BLOOMERY_PORT"] = "0"
    return subprocess.Popen([sys.executable, "-m", "bloomery_trainer", "train", str(config_path)], env=environment)


def _wait(started: list[subprocess.Popen[bytes]], shutdown: Shutdown) -> int | None:
    """Wait for all; return the rank of the process to blame, None if none failed."""
    ended: list[int] = []
    signalled = killed = False
    deadline = float("inf")
    while any(process.poll() is None for process in started):
        if shutdown.terminating and not signalled:
            signalled = True
            for process in started:
                process.terminate()
        if not killed:
            news = [rank for rank, process in enumerate(started) if process.poll() and rank not in ended]
            ended += news
            deadline = min([deadline, *(time.monotonic() + _patience(started[rank].returncode) for rank in news)])
        if time.monotonic() > deadline and not killed:
            killed = True
            for process in started:
                process.kill()
        time.sleep(_POLL_SECONDS)
    if not killed:
        ended += [rank for rank, process in enumerate(started) if process.returncode and rank not in ended]
    # A process that lost a peer may end before that peer, and its message explains less.
    return next((rank for rank in ended if started[rank].returncode != PeerLost.exit_code), ended[0] if ended else None)


def _patience(code: int) -> float:
    """Return the seconds that the other processes get after one has ended so; on SIGTERM, the leader saves longest."""
    return _SAVING_SECONDS if code == TERMINATED_EXIT_CODE else _PEERS_SECONDS


def _message(folder: Path, rank: int, code: int) -> dict[str, Any]:
    try:
        message: dict[str, Any] = json.loads((folder / f"message-{rank}").read_text(encoding="utf-8"))
        return message
    except (OSError, ValueError):
        return termination.failure("ProcessLost", f"training process {rank} ended with exit code {code} and no message")
