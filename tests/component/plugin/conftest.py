"""The plugin as people start it, with a real kubectl against a real API server."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.component.conftest import ApiServer

PATIENCE_SECONDS = 30.0
Run = subprocess.CompletedProcess[str]


@dataclass
class Started:
    """A command that runs on, read line by line."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    _waiting: queue.Queue[str] = field(default_factory=queue.Queue)

    def __post_init__(self) -> None:
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._waiting.put(line.rstrip("\n"))

    def wait_for(self, text: str) -> str:
        """Wait for a line with a text in it; return the line."""
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                line = self._waiting.get(timeout=max(0, end - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no line with {text!r}; there were {self.lines}") from None
            self.lines.append(line)
            if text in line:
                return line

    def wait(self) -> int:
        """Wait for its end; return the exit code."""
        return self.process.wait(PATIENCE_SECONDS)


@dataclass(frozen=True)
class Plugin:
    """``kubectl bloomery`` in one namespace."""

    environment: Mapping[str, str]
    namespace: str
    folder: Path
    started: list[Started] = field(default_factory=list)

    def __call__(self, command: str, *words: str | Path, namespace: str | None = None, **environment: str) -> Run:
        """Run a command to its end."""
        return subprocess.run(
            self._words(command, words, namespace),
            env=self.environment | environment, cwd=self.folder, capture_output=True, text=True, timeout=90,
            check=False,
        )  # fmt: skip

    def start(self, command: str, *words: str | Path, **environment: str) -> Started:
        """Start a command that goes on."""
        started = Started(
            subprocess.Popen(
                self._words(command, words, None),
                env=self.environment | environment, cwd=self.folder, text=True, start_new_session=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=_take_ctrl_c,
            )
        )  # fmt: skip
        self.started.append(started)
        return started

    def _words(self, command: str, words: tuple[str | Path, ...], namespace: str | None) -> list[str]:
        where = f"--namespace={namespace or self.namespace}"
        return [sys.executable, "-m", "kubectl_bloomery", command, *map(str, words), where]


@pytest.fixture
def bloomery(crds: ApiServer, namespace: str, program: Callable[[str], Path], tmp_path: Path) -> Iterator[Plugin]:
    """The plugin of an administrator."""
    plugin = Plugin(environment(crds, program, tmp_path), namespace, tmp_path)
    yield plugin
    for command in plugin.started:
        if command.process.poll() is None:
            os.killpg(command.process.pid, signal.SIGKILL)
            command.process.wait()


def _take_ctrl_c() -> None:
    # What shells start in the background ignores it, and so would all that it starts.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def environment(server: ApiServer, program: Callable[[str], Path], home: Path) -> dict[str, str]:
    """Return the environment of a user of the API server."""
    path = f"{program('kubectl').parent}{os.pathsep}{os.environ['PATH']}"
    known = {"PATH": path, "KUBECONFIG": str(server.kubeconfig), "HOME": str(home), "KUBECACHEDIR": str(server.cache)}
    return os.environ | known | {"COLUMNS": "160", "TERM": "dumb"}


@dataclass(frozen=True)
class Objects:
    """The namespace's objects, and the hand of the operator that is not there."""

    server: ApiServer
    namespace: str

    def create(self, manifest: Mapping[str, Any], status: Mapping[str, Any] | None = None) -> None:
        """Make an object, with the status that the operator would give it."""
        done = self.server.kubectl("create", "-n", self.namespace, "-f", "-", input=manifest)
        assert done.returncode == 0, done.stderr
        if status is not None:
            self.report(manifest["kind"], manifest["metadata"]["name"], status)

    def report(self, kind: str, name: str, status: Mapping[str, Any]) -> None:
        """Write an object's status."""
        change = json.dumps({"status": status})
        words = ("patch", kind, name, "-n", self.namespace, "--subresource=status", "--type=merge", "-p", change)
        done = self.server.kubectl(*words)
        assert done.returncode == 0, done.stderr

    def get(self, kind: str, name: str) -> Any:
        """Return an object."""
        done = self.server.kubectl("get", kind, name, "-n", self.namespace, "-o", "json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def objects(crds: ApiServer, namespace: str) -> Objects:
    """The hands that make objects and report on them."""
    return Objects(crds, namespace)


def condition(type_: str, status: str, reason: str, message: str) -> dict[str, str]:
    """Return a condition as the operator writes it."""
    now = "2026-01-01T00:00:00Z"
    return {"type": type_, "status": status, "reason": reason, "message": message, "lastTransitionTime": now}
