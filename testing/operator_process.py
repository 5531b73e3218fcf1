"""The operator as a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

from testing.processes import free_port
from testing.waiting import TIMEOUT_SECONDS, eventually

SOURCES = Path(__file__).resolve().parents[1] / "operator" / "src"
GATEWAY = {"BLOOMERY_GATEWAY_NAME": "bloomery", "BLOOMERY_GATEWAY_NAMESPACE": "gateways"}


class OperatorProcess:
    """``python -m bloomery_operator``, which a test can kill and restart."""

    def __init__(self, *, kubeconfig: Path, log: Path, environment: Mapping[str, str]) -> None:
        self.log = log
        self.health_port, self.metrics_port = free_port(), free_port()
        self._environment = {
            "PATH": os.environ["PATH"],
            # Use this checkout's sources, even if another version is installed.
            "PYTHONPATH": str(SOURCES),
            "HOME": str(log.parent),
            "KUBECONFIG": str(kubeconfig),
            "BLOOMERY_TRAINER_IMAGE": "example/trainer:1",
            "BLOOMERY_SERVING_IMAGE": "example/serving:1",
            "BLOOMERY_GATEWAY_PUBLIC_URL": "http://gateway.example",
            "BLOOMERY_MLFLOW_PUBLIC_URL": "http://mlflow.example",
            "BLOOMERY_MLFLOW_ADDRESSES": "http://127.0.0.1:9",
            "BLOOMERY_LOG_FORMAT": "text",
            "BLOOMERY_PROGRESS_SECONDS": "0.5",
            "BLOOMERY_OBSTACLE_SECONDS": "1",
            "BLOOMERY_KEYS_SECONDS": "2",
            "BLOOMERY_HEALTH_PORT": str(self.health_port),
            "BLOOMERY_METRICS_PORT": str(self.metrics_port),
            **environment,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, until: str = "starting to reconcile") -> None:
        """Start the operator, and wait until its log contains a text, by default that it reconciles."""
        before = self.log_text().count(until)
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bloomery_operator"], env=self._environment, stdout=output, stderr=output
            )
        eventually(lambda: self.log_text().count(until) > before, f"the operator logs {until!r}")

    def set(self, name: str, value: str) -> None:
        """Set an environment variable for the next start."""
        self._environment[name] = value

    def run_to_its_end(self) -> int:
        """Run the operator until it ends by itself; return its exit code."""
        with self.log.open("ab") as output:
            command = [sys.executable, "-m", "bloomery_operator"]
            done = subprocess.run(command, env=self._environment, stdout=output, stderr=output, timeout=30, check=False)
        return done.returncode

    def kill(self) -> None:
        """Kill the operator at once, as a node failure does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(timeout=10)

    def freeze(self) -> None:
        """Pause the process, as on a suspended machine."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Resume the process."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def wait(self, *, seconds: float = TIMEOUT_SECONDS) -> int:
        """Wait until the operator ends by itself; return its exit code."""
        assert self._process is not None
        return self._process.wait(timeout=seconds)

    def end(self) -> None:
        """Kill the operator if it still runs."""
        if self._process is not None and self._process.poll() is None:
            self.kill()

    def stop(self) -> int:
        """Send SIGTERM; return the exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(timeout=15)
        finally:
            self._process.kill()

    def log_text(self) -> str:
        """Return the log so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def metrics(self) -> str:
        """Return the operator's metrics."""
        return httpx.get(f"http://127.0.0.1:{self.metrics_port}/metrics").text

    def health(self) -> httpx.Response:
        """Return the answer of the liveness probe."""
        return httpx.get(f"http://127.0.0.1:{self.health_port}/healthz")

    def assert_calm(self) -> None:
        """Fail if the log contains an error."""
        text = self.log_text()
        for error in ("Traceback", "ERROR", "failed and is tried again", "never awaited", "never retrieved"):
            assert error not in text, text[-6000:]


@contextmanager
def running(operator: OperatorProcess) -> Iterator[OperatorProcess]:
    """Run an operator for the length of the block; fail if its log contains an error."""
    operator.start()
    try:
        yield operator
    finally:
        code = operator.stop()
    assert code == 0, operator.log_text()[-3000:]
    operator.assert_calm()
