"""The trainer's ``prepare`` command in a process of its own, with its memory measured and bounded."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

MEMORY_BYTES = 4 * 1024**3
"""Memory limit of a pod that prepares images, where its Dataset sets none."""
_ADDRESS_BYTES = 8 * 1024**3
"""Address space, so that a case that needs too much does not take the machine's memory."""
_SECONDS = 180.0


@dataclass(frozen=True)
class Outcome:
    """The end of a preparation: its exit code, its termination message, and the most memory that it had."""

    code: int
    message: dict[str, Any]
    peak_bytes: int


class Worker:
    """Runs one preparation after another; a process that dies or hangs is replaced."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None

    def prepare(self, config: Mapping[str, Any], folder: Path, environment: Mapping[str, str]) -> Outcome | str:
        """Run a preparation; return its outcome, or a sentence if there is none."""
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        if self._process is None or not self._process.is_alive():
            self._start()
        assert self._process is not None and self._pipe is not None
        self._pipe.send((folder, dict(environment)))
        try:
            if not self._pipe.poll(_SECONDS):
                self.stop()
                return f"the preparation did not end within {_SECONDS:.0f} s"
            code, peak = self._pipe.recv()
        except EOFError:
            self._process.join()
            return f"the preparation died with exit code {self._process.exitcode}"
        return Outcome(code, json.loads((folder / "message.json").read_bytes()), peak)

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, end = context.Pipe()
        self._process = context.Process(target=_serve, args=(end, self._log), daemon=False)
        self._process.start()
        # The copy of this process: without it, the end of the other is seen here.
        end.close()


def _serve(pipe: Connection, log: Path) -> None:
    """Run preparations until the pipe is closed."""
    from bloomery_trainer import entrypoint

    with log.open("ab") as output:
        os.dup2(output.fileno(), sys.stderr.fileno())
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_BYTES, _ADDRESS_BYTES))
    own = dict(os.environ)
    while True:
        try:
            folder, environment = pipe.recv()
        except EOFError:
            return
        os.environ.clear()
        os.environ.update(own | environment | {"TERMINATION_LOG": str(folder / "message.json"), "BLOOMERY_PORT": "0"})
        forget_peak("self")
        code = entrypoint.launch("prepare", folder / "config.json")
        pipe.send((code, peak_bytes("self")))


def forget_peak(process: int | str) -> None:
    """Reset a process' peak of memory (proc(5), clear_refs)."""
    Path(f"/proc/{process}/clear_refs").write_text("5")


def peak_bytes(process: int | str) -> int:
    """Return a process' largest resident memory."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
