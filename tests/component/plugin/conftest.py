"""Fixtures that run the plugin with a real kubectl against a real API server."""

from __future__ import annotations

import json
import os
import queue
import secrets
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

from testing.api_server import ApiServer

TIMEOUT_SECONDS = 30.0
TRAINER_IMAGE = "registry.example.com/bloomery/trainer:2"
OPERATOR_IMAGE = "registry.example.com/bloomery/operator:2"
OURS = {"app.kubernetes.io/instance": "ours", "helm.sh/chart": "bloomery-0.3.0"}
Run = subprocess.CompletedProcess[str]


@dataclass
class StartedCommand:
    """A command in the background, whose output is read line by line."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    _unread_lines: queue.Queue[str] = field(default_factory=queue.Queue)

    def __post_init__(self) -> None:
        threading.Thread(target=self._read_output, daemon=True).start()

    def _read_output(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._unread_lines.put(line.rstrip("\n"))

    def wait_for(self, text: str) -> str:
        """Wait for a line with a text in it; return the line."""
        end = time.monotonic() + TIMEOUT_SECONDS
        while True:
            try:
                line = self._unread_lines.get(timeout=max(0, end - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no line contains {text!r}; the lines were {self.lines}") from None
            self.lines.append(line)
            if text in line:
                return line

    def wait(self) -> int:
        """Wait for the end; return the exit code."""
        return self.process.wait(TIMEOUT_SECONDS)


@dataclass(frozen=True)
class Plugin:
    """``kubectl bloomery`` in one namespace."""

    environment: Mapping[str, str]
    namespace: str
    folder: Path
    started: list[StartedCommand] = field(default_factory=list)

    def __call__(self, command: str, *args: str | Path, namespace: str | None = None, **environment: str) -> Run:
        """Run a command to its end."""
        return subprocess.run(
            self._argv(command, args, namespace),
            env=self.environment | environment, cwd=self.folder, capture_output=True, text=True, timeout=90,
            check=False,
        )  # fmt: skip

    def start(self, command: str, *args: str | Path, **environment: str) -> StartedCommand:
        """Start a command in the background."""
        started = StartedCommand(
            subprocess.Popen(
                self._argv(command, args, None),
                env=self.environment | environment, cwd=self.folder, text=True, start_new_session=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=_restore_sigint,
            )
        )  # fmt: skip
        self.started.append(started)
        return started

    def _argv(self, command: str, args: tuple[str | Path, ...], namespace: str | None) -> list[str]:
        scope = f"--namespace={namespace or self.namespace}"
        return [sys.executable, "-m", "kubectl_bloomery", command, *map(str, args), scope]


@pytest.fixture
def bloomery(crds: ApiServer, namespace: str, program: Callable[[str], Path], tmp_path: Path) -> Iterator[Plugin]:
    """The plugin with an administrator's rights."""
    plugin = Plugin(environment(crds, program, tmp_path), namespace, tmp_path)
    yield plugin
    for command in plugin.started:
        if command.process.poll() is None:
            os.killpg(command.process.pid, signal.SIGKILL)
            command.process.wait()


def _restore_sigint() -> None:
    # A shell starts background processes with SIGINT ignored, and child processes inherit that.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def environment(server: ApiServer, program: Callable[[str], Path], home: Path) -> dict[str, str]:
    """Return the environment of a user of the API server."""
    path = f"{program('kubectl').parent}{os.pathsep}{os.environ['PATH']}"
    kubectl_files = {"KUBECONFIG": str(server.kubeconfig), "KUBECACHEDIR": str(server.cache)}
    return os.environ | kubectl_files | {"PATH": path, "HOME": str(home), "COLUMNS": "160", "TERM": "dumb"}


@dataclass(frozen=True)
class Objects:
    """Creates objects in the namespace, and writes their status in place of the operator."""

    server: ApiServer
    namespace: str

    def create(self, manifest: Mapping[str, Any], status: Mapping[str, Any] | None = None) -> None:
        """Create an object, with the status that the operator would write."""
        completed = self.server.kubectl("create", "-n", self.namespace, "-f", "-", input=manifest)
        assert completed.returncode == 0, completed.stderr
        if status is not None:
            self.report(manifest["kind"], manifest["metadata"]["name"], status)

    def report(self, kind: str, name: str, status: Mapping[str, Any]) -> None:
        """Write an object's status."""
        change = json.dumps({"status": status})
        args = ("patch", kind, name, "-n", self.namespace, "--subresource=status", "--type=merge", "-p", change)
        completed = self.server.kubectl(*args)
        assert completed.returncode == 0, completed.stderr

    def get(self, kind: str, name: str) -> Any:
        """Return an object."""
        completed = self.server.kubectl("get", kind, name, "-n", self.namespace, "-o", "json")
        assert completed.returncode == 0, completed.stderr
        return json.loads(completed.stdout)


@pytest.fixture
def objects(crds: ApiServer, namespace: str) -> Objects:
    """Access to the objects of the test's namespace."""
    return Objects(crds, namespace)


def condition(type_: str, status: str, reason: str, message: str) -> dict[str, str]:
    """Return a condition as the operator writes it."""
    now = "2026-01-01T00:00:00Z"
    return {"type": type_, "status": status, "reason": reason, "message": message, "lastTransitionTime": now}


@pytest.fixture
def release(objects: Objects) -> str:
    """The namespace of a release of the chart, with its operator's Deployment."""
    namespace = f"release-{secrets.token_hex(4)}"
    assert objects.server.kubectl("create", "namespace", namespace).returncode == 0
    labels = {"app.kubernetes.io/name": "bloomery", "app.kubernetes.io/component": "operator"}
    values = {
        "BLOOMERY_TRAINER_IMAGE": TRAINER_IMAGE,
        "BLOOMERY_IMAGE_PULL_POLICY": "Never",
        "BLOOMERY_STORE_URI": "s3://ours/bloomery",
        "BLOOMERY_STORAGE_SECRET": "our-storage",
    }
    environment = [{"name": name, "value": value} for name, value in values.items()]
    template = {
        "metadata": {"labels": labels},
        "spec": {"containers": [{"name": "o", "image": OPERATOR_IMAGE, "env": environment}]},
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "ours-operator", "labels": labels | OURS},
        "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": template},
    }
    Objects(objects.server, namespace).create(deployment)
    return namespace
