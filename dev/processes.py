"""Daemons of the development cluster: started detached, identified by pid and start time, and ended only by these.

A daemon whose program, arguments or configuration changed since its start is restarted.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from dev.paths import LOGS, PIDS
from dev.stages import StageError


def start(name: str, command: Sequence[str | Path], *, reads: Sequence[Path] = ()) -> None:
    """Start a daemon unless it runs; its output goes to its log. ``reads`` names its configuration files."""
    words = [str(word) for word in command]
    digest = _digest(words, reads)
    if is_running(name):
        if _recorded(name)[2:] in ([], [digest]):
            return
        stop(name)
    PIDS.mkdir(parents=True, exist_ok=True)
    log_path(name).parent.mkdir(parents=True, exist_ok=True)
    with log_path(name).open("a") as log:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    _pid_file(name).write_text(f"{process.pid} {_start_time(process.pid)} {digest}")


def log_path(name: str) -> Path:
    """Return a daemon's log."""
    return LOGS / "daemons" / f"{name}.log"


def is_up(name: str, condition: Callable[[], bool]) -> bool:
    """Whether a daemon's condition holds yet.

    Raises:
        StageError: the daemon ended, so that it never will.
    """
    if not is_running(name):
        raise StageError(f"{name} ended at once; its own log is {log_path(name)}")
    return condition()


def is_running(name: str) -> bool:
    """Whether the daemon that we started is still there."""
    return _pid(name) is not None


def any_running(pids: Path) -> bool:
    """Whether a daemon that is noted in this folder, perhaps that of another checkout, is still there."""
    return any(_alive(file) is not None for file in pids.iterdir())


def stop(name: str, *, seconds: float = 20.0) -> None:
    """End a daemon: SIGTERM, and SIGKILL where that does not help in time."""
    end = time.monotonic() + seconds
    _signal(name, signal.SIGTERM)
    while is_running(name) and time.monotonic() < end:
        time.sleep(0.1)
    _signal(name, signal.SIGKILL)
    _pid_file(name).unlink(missing_ok=True)


def _signal(name: str, number: signal.Signals) -> None:
    pid = _pid(name)
    if pid is not None:
        # It may end between the look and the signal.
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _pid(name: str) -> int | None:
    """Return the daemon's pid, if that pid is still the process that we started."""
    return _alive(_pid_file(name))


def _alive(file: Path) -> int | None:
    match _noted(file):
        case [pid, started, *_] if _start_time(int(pid)) == started:
            return int(pid)
    return None


def _recorded(name: str) -> list[str]:
    return _noted(_pid_file(name))


def _noted(file: Path) -> list[str]:
    """Return what was noted at a daemon's start: pid, start time, digest."""
    return file.read_text().split() if file.exists() else []


def _digest(words: Sequence[str], reads: Sequence[Path]) -> str:
    program = Path(shutil.which(words[0]) or words[0]).stat()
    facts = [*words, str(program.st_size), str(program.st_mtime_ns), *(path.read_text() for path in reads)]
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()


def _start_time(pid: int) -> str:
    """Return the start time of a process in clock ticks since boot (proc(5), field 22); empty for a dead one."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] == "Z" else fields[19]


def _pid_file(name: str) -> Path:
    return PIDS / name
