"""The logs of pods that come and go: followed while the pods live, and what must not be in them."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from dev import demo
from dev.paths import target
from testing.dev_cluster import Kubectl

_BUG = re.compile(r"Traceback \(most recent call last\)|never awaited|never retrieved")
_ERROR = re.compile(r"^\S+ \S+ (?:ERROR|CRITICAL) ")
"""The head of a line of the operator's text format."""
_WATCH = (
    "--watch",
    "--no-headers",
    "--output=custom-columns=POD:.metadata.name,CONTAINERS:.status.containerStatuses[*].containerID",
)


def alarms(log: str) -> list[str]:
    """Return the bugs and errors in a log of the operator, in JSON or in text: a sentence for each."""
    lines = log.splitlines()
    results = (_alarm(line, lines[number + 1 :]) for number, line in enumerate(lines))
    return [alarm for alarm in results if alarm]


def _alarm(line: str, rest: Sequence[str]) -> str | None:
    """Return the error in a line with its exception, which may be in the following lines; None without an error."""
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    if isinstance(entry, dict):
        is_bad = entry.get("levelname") in ("ERROR", "CRITICAL") or _BUG.search(line)
        raised = str(entry.get("exc_info", "")).strip().rpartition("\n")[2]
        return " | ".join(filter(None, (str(entry.get("message")), raised))) if is_bad else None
    if line.startswith("Traceback"):
        return next((later for later in rest if later and not later.startswith(" ")), "a traceback that is cut off")
    return line.strip() if _BUG.search(line) or _ERROR.match(line) else None


class Logs:
    """Follows the log of every container of a kind of pods into a file, as a killed pod's log goes with it."""

    def __init__(self, kubectl: Kubectl, selector: str, folder: Path) -> None:
        self._kubectl = kubectl
        self._selector = selector
        self._folder = folder
        self._since = ""
        self._read: dict[Path, int] = {}
        self._followed: set[str] = set()
        self._processes: list[subprocess.Popen[str]] = []
        self._starting = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._follow_all)

    def __enter__(self) -> Logs:
        """Start to follow; earlier log lines of existing pods do not count."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for old in self._folder.iterdir():
            old.unlink()
        self._since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._starting:
            self._closing.set()
        for process in self._processes:
            process.terminate()
            process.wait()
        self._thread.join()

    def alarms(self) -> list[str]:
        """Return the alarms in the logs since the last call."""
        new_alarms = []
        for path in sorted(self._folder.glob("*.log")):
            begin = self._read.get(path, 0)
            with path.open("rb") as file:
                file.seek(begin)
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._read[path] = begin + len(whole)
            new_alarms += [f"{path.stem}: {alarm}" for alarm in alarms(whole.decode(errors="replace"))]
        return new_alarms

    def _follow_all(self) -> None:
        """Follow each container from its start; a watch that ended is restarted, and lists all containers again."""
        words = ("get", "pods", f"--selector={self._selector}", *_WATCH)
        while (watch := self._start(*words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)) is not None:
            with watch:
                for line in watch.stdout or ():
                    pod, containers = line.split()
                    for container in containers.split(","):
                        self._follow(pod, container.rpartition("/")[2])
            self._closing.wait(1.0)

    def _follow(self, pod: str, container: str) -> None:
        if container != "<none>" and container not in self._followed:
            self._followed.add(container)
            with (self._folder / f"{pod}-{container[:8]}.log").open("wb") as file:
                self._start("logs", "--follow", f"--since-time={self._since}", pod, stdout=file, stderr=file)

    def _start(self, *words: str, stdout: int | BinaryIO, stderr: int | BinaryIO) -> subprocess.Popen[str] | None:
        """Start kubectl, unless the logs are closing."""
        command = [demo.tool("kubectl"), f"--namespace={self._kubectl.namespace}", *words]
        with self._starting:
            if self._closing.is_set():
                return None
            process = subprocess.Popen(command, env=target().environment, stdout=stdout, stderr=stderr, text=True)
            self._processes.append(process)
            return process
