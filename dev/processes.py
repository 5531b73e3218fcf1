"""Daemons of the development cluster: started detached, known by pid and start time, ended by them alone."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from dev.paths import LOGS, PIDS


def start(name: str, command: Sequence[str | Path], *, env: Mapping[str, str] | None = None) -> None:
    """Start a daemon unless it runs; its output goes to its log."""
    if is_running(name):
        return
    PIDS.mkdir(parents=True, exist_ok=True)
    LOGS.mkdir(parents=True, exist_ok=True)
    with (LOGS / f"{name}.log").open("a") as log:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **(env or {})},
        )
    _pid_file(name).write_text(f"{process.pid} {_start_time(process.pid)}")


def is_running(name: str) -> bool:
    """Whether the daemon that we started is still there."""
    return _pid(name) is not None


def stop(name: str, *, seconds: float = 20.0) -> None:
    """End a daemon: SIGTERM, and SIGKILL where that does not help in time."""
    pid = _pid(name)
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
        end = time.monotonic() + seconds
        while _pid(name) is not None and time.monotonic() < end:
            time.sleep(0.1)
        if _pid(name) is not None:
            os.kill(pid, signal.SIGKILL)
    _pid_file(name).unlink(missing_ok=True)


def _pid(name: str) -> int | None:
    """Return the daemon's pid, if that pid is still the process that we started."""
    try:
        pid, started = _pid_file(name).read_text().split()
    except (FileNotFoundError, ValueError):
        return None
    return int(pid) if _start_time(int(pid)) == started else None


def _start_time(pid: int) -> str:
    """Return the start time of a process in clock ticks since boot (proc(5), field 22); empty for a dead one."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def _pid_file(name: str) -> Path:
    return PIDS / name
