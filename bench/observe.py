"""Observations of the operators' benchmark: processes, calls of the API server, and times of objects."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from testing.api_server import ApiServer

Manifest = dict[str, Any]
_TICKS = os.sysconf("SC_CLK_TCK")


class _Stat(NamedTuple):
    parent: int
    cpu_seconds: float


def _stat(pid: int) -> _Stat:
    """Read what the kernel says of a process (proc(5), stat: ppid, utime and stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return _Stat(parent=int(fields[1]), cpu_seconds=(int(fields[11]) + int(fields[12])) / _TICKS)


class Processors:
    """How busy this program and all that it started keep the machine from now on: who takes most may be the limit."""

    def __init__(self) -> None:
        """Begin."""
        self._began = time.monotonic()
        self._before = _cpu_seconds()

    def figures(self) -> dict[str, Any]:
        """Return how many processors each program kept busy, who kept most, and the share of all that all kept."""
        seconds = time.monotonic() - self._began
        each: defaultdict[str, float] = defaultdict(float)
        for (pid, name), taken in _cpu_seconds().items():
            each[name] += (taken - self._before.get((pid, name), 0.0)) / seconds
        ordered = sorted(each, key=lambda name: -each[name])
        return {
            "each": {name: round(each[name], 2) for name in ordered if each[name] >= 0.01},
            "most": ordered[0],
            "busy": round(sum(each.values()) / len(os.sched_getaffinity(0)), 2),
        }


def _cpu_seconds() -> dict[tuple[int, str], float]:
    """Return what this process and its children took so far, by number and program."""
    seconds = {}
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        # One that ends meanwhile was none of those that last.
        with suppress(FileNotFoundError, ProcessLookupError):
            stat = _stat(pid)
            if os.getpid() in (pid, stat.parent):
                seconds[pid, _program((folder / "cmdline").read_text().split("\0"))] = stat.cpu_seconds
    return seconds


def _program(command: Sequence[str]) -> str:
    """Return what a command runs: a Python module, or the program itself."""
    return command[command.index("-m") + 1] if "-m" in command else Path(command[0]).name


class Process:
    """An operator that runs, and what it takes of the machine."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        """Start it at once."""
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command, env={**os.environ, **environment}, stdout=output, stderr=output, cwd=log.parent
            )
        self._log = log

    def check(self) -> None:
        """Fail in its own words if it has ended."""
        if self._process.poll() is not None:
            raise SystemExit(f"{self._log.stem} ended: {self._log.read_text()[-2000:]}")

    def peak_mib(self) -> float:
        """Return the most memory that it ever had resident (proc(5), VmHWM)."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        return round(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024, 1)

    def cpu_seconds(self) -> float:
        """Return the processor time that it took so far."""
        return _stat(self._process.pid).cpu_seconds

    def stop(self) -> None:
        """End it."""
        self._process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(20)
        self._process.kill()
        self._process.wait()


class Calls:
    """The API server's audit log: every call, and whose it was."""

    def __init__(self, log: Path) -> None:
        """Read the log from where it is now."""
        self._log = log

    def mark(self) -> int:
        """Return a point in time, to count from."""
        return self._log.stat().st_size if self._log.exists() else 0

    def since(self, mark: int, home: str) -> Counter[str]:
        """Return the calls by a namespace's accounts since then: verb and resource, and the code where it failed."""
        calls: Counter[str] = Counter()
        group = f"system:serviceaccounts:{home}"
        with self._log.open("rb") as log:
            log.seek(mark)
            for line in log:
                event = json.loads(line)
                if group not in event["user"].get("groups", ()) or event["stage"] != "ResponseComplete":
                    continue
                target = event.get("objectRef", {})
                parts = [event["verb"], target.get("resource", event["requestURI"]), target.get("subresource", "")]
                code = event["responseStatus"].get("code", 200)
                calls[" ".join([*filter(None, parts), *([str(code)] if code >= 400 else [])])] += 1
        return calls


class Watch:
    """Follows a kind in a namespace, and records when each object first met a condition."""

    def __init__(
        self,
        server: ApiServer,
        path: str,
        condition: Callable[[Manifest], bool] = bool,
        *,
        selector: str = "",
        each: int = 1,
    ) -> None:
        """Follow from now on, what is there already included; ``each`` is how many of them an owner has."""
        self.each = each
        self._server = server
        self._path = path
        self._condition = condition
        self._selector = selector
        self._times: dict[str, float] = {}
        self._changed = threading.Condition()
        self._failure: Exception | None = None
        self._closing = False

    @property
    def count(self) -> int:
        """The number of objects that have met the condition so far."""
        return len(self._times)

    def wait_for(self, count: int, *, seconds: float, process: Process) -> float:
        """Wait until so many objects have met the condition; return the monotonic time of the last one."""
        end = time.monotonic() + seconds
        with self._changed:
            while self.count < count:
                process.check()
                if self._failure is not None:
                    raise SystemExit(f"the watch of {self._path} ended: {self._failure!r}")
                if time.monotonic() > end:
                    raise SystemExit(f"{self._path}: {self.count} of {count} met the condition within {seconds:.0f} s")
                self._changed.wait(1.0)
            return max(self._times.values())

    def next_change(self, name: str, *, since: float, seconds: float) -> float:
        """Wait until an object meets the condition after a moment; return the seconds since that moment."""
        end = time.monotonic() + seconds
        with self._changed:
            while self._times.get(name, 0.0) < since:
                if time.monotonic() > end:
                    raise SystemExit(f"{self._path}/{name} did not change within {seconds:.0f} s")
                self._changed.wait(end - time.monotonic())
            return self._times[name] - since

    def wait_for_another(self, name: str, condition: Callable[[Manifest], bool]) -> None:
        """Wait for another condition from now on, for an object that met the previous one."""
        with self._changed:
            self._times.pop(name, None)
            self._condition = condition

    @contextmanager
    def following(self) -> Iterator[Watch]:
        """Follow for the length of the block."""
        thread = threading.Thread(target=self._follow, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._closing = True

    def _follow(self) -> None:
        query = {"watch": "true", "labelSelector": self._selector, "timeoutSeconds": "3600"}
        try:
            with self._server.http() as client, client.stream("GET", self._path, params=query, timeout=None) as answer:
                answer.raise_for_status()
                for line in answer.iter_lines():
                    if self._closing:
                        return
                    self._take(json.loads(line))
        except httpx.HTTPError as error:
            self._failure = error

    def _take(self, event: Manifest) -> None:
        manifest = event["object"]
        with self._changed:
            name = manifest["metadata"]["name"]
            if event["type"] in ("ADDED", "MODIFIED") and name not in self._times and self._condition(manifest):
                self._times[name] = time.monotonic()
                self._changed.notify_all()
