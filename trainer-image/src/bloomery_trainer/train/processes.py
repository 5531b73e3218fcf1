"""Several training processes on one node, one a GPU: started, told to end, and judged as one."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from bloomery_trainer import termination
from bloomery_trainer.shutdown import Shutdown

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
_PEERS_SECONDS = 60.0
"""How long the others get to notice that one of them has failed."""


def count() -> int:
    """Processes to start on this node: $BLOOMERY_PROCESSES, else one a GPU, and one where there is none."""
    if "LOCAL_RANK" in os.environ:
        return 1
    return int(os.environ.get("BLOOMERY_PROCESSES") or max(1, torch.cuda.device_count()))


def run(config_path: Path, processes: int, shutdown: Shutdown) -> tuple[int, dict[str, Any]]:
    """Runs the training in so many processes; the exit code and termination message of the first that failed."""
    with tempfile.TemporaryDirectory(prefix="bloomery-") as scratch:
        folder = Path(scratch)
        with shutdown.deferring():
            started = [_start(config_path, rank, processes, folder) for rank in range(processes)]
            failed = _wait(started, shutdown)
        rank = 0 if failed is None else failed
        code = started[rank].returncode
        # A process that was killed by signal 9 ends as its container would: with 137.
        return (code if code >= 0 else 128 - code), _message(folder, rank, code)


def _start(config_path: Path, rank: int, processes: int, scratch: Path) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(processes),
        "TERMINATION_LOG": str(scratch / f"message-{rank}"),
        "BLOOMERY_SCRATCH": scratch.as_posix(),
    }
    if rank:
        environment["BLOOMERY_PORT"] = "0"
    return subprocess.Popen([sys.executable, "-m", "bloomery_trainer", "train", str(config_path)], env=environment)


def _wait(started: list[subprocess.Popen[bytes]], shutdown: Shutdown) -> int | None:
    """Waits for all; returns the rank of the first that failed, None where none did."""
    failed: int | None = None
    told = False
    deadline = float("inf")
    while any(process.poll() is None for process in started):
        if shutdown.terminating and not told:
            told = True
            for process in started:
                process.terminate()
        if failed is None:
            failed = next((rank for rank, process in enumerate(started) if process.poll()), None)
            deadline = float("inf") if failed is None else time.monotonic() + _PEERS_SECONDS
        if time.monotonic() > deadline:
            for process in started:
                process.kill()
        time.sleep(_POLL_SECONDS)
    return failed if failed is not None else next((r for r, process in enumerate(started) if process.returncode), None)


def _message(folder: Path, rank: int, code: int) -> dict[str, Any]:
    try:
        message: dict[str, Any] = json.loads((folder / f"message-{rank}").read_text(encoding="utf-8"))
        return message
    except (OSError, ValueError):
        return termination.failure("ProcessLost", f"training process {rank} ended with {code} and left no word")
