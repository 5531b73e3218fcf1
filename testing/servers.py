"""An MLflow server and an S3 server as processes on loopback."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import obstore
from mlflow.tracking import MlflowClient
from obstore.store import S3Store

from bloomery_trainer.mlflow_server import connect
from testing.processes import free_port

ROOT = Path(__file__).resolve().parents[1]
S3_PROGRAM = ROOT / ".dev/bin/versitygw"
_START_SECONDS = 120.0


def started(command: list[str], *, log: Path, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a program in a new process group."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
            start_new_session=True,
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", **(environment or {})},
        )


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a program and its workers."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def until_answered(url: str, process: subprocess.Popen[bytes], *, log: Path) -> None:
    """Wait until a server answers; fail with the end of its log if it ends first."""
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        assert process.poll() is None, f"it ended: {log.read_text()[-2000:]}"
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise AssertionError(f"{url} did not answer: {log.read_text()[-2000:]}")


def install_mlflow() -> Path:
    """Return the ``mlflow`` command of a separate environment, as its packages conflict with the trainer's.

    The version is that of the shipped image, with the libraries that serve models.
    """
    needed = (ROOT / "dev/images/mlflow/requirements.txt").read_text()
    pins = (ROOT / "trainer-image/requirements.txt").read_text().splitlines()
    needed += "".join(f"{pin}\n" for pin in pins if pin.startswith(("onnx==", "onnxruntime==")))
    folder = ROOT / ".dev" / "mlflow-environment" / hashlib.sha256(needed.encode()).hexdigest()[:16]
    if not (folder / "complete").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "requirements.txt").write_text(needed)
        uv, venv = ROOT / ".venv/bin/uv", folder / "venv"
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, venv], check=True)
        install = [uv, "pip", "install", "--quiet", "--python", venv, "-r", folder / "requirements.txt"]
        subprocess.run(install, check=True, timeout=600)
        (folder / "complete").touch()
    return folder / "venv" / "bin" / "mlflow"


@dataclass
class MlflowServer:
    """An MLflow server with its data in a folder; it can be killed and restarted on the same port."""

    program: Path
    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    artifact_options: tuple[str, ...] = ()
    """Where it keeps the files of runs; empty: in its folder, passed on by itself."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of the server alone."""

    @property
    def uri(self) -> str:
        """The server's URL."""
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> MlflowClient:
        """Return a client for the server."""
        return connect(self.uri)

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        command = [
            *(str(self.program), "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"),
            *(self.artifact_options or ("--artifacts-destination", str(self.folder / "artifacts"))),
        ]
        # As in the chart: its job runner is eight more processes, and nothing of ours uses it.
        environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **self.variables}
        self.process = started(command, log=self.folder / "mlflow.log", environment=environment)
        until_answered(f"{self.uri}/health", self.process, log=self.folder / "mlflow.log")

    def kill(self) -> None:
        """Kill the server, as a lost machine does."""
        if self.process is not None:
            kill_group(self.process)

    def pause(self) -> None:
        """Pause the server: it accepts connections and does not answer."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Resume the server."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self.process is not None:
            # The server has worker processes.
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)


@dataclass
class S3Server:
    """An S3 server whose buckets are folders, with its log of requests; ``prefix`` is a command that starts it."""

    port: int
    key: str
    folder: Path
    log: Path
    process: subprocess.Popen[bytes] | None = None
    options: tuple[str, ...] = ()
    prefix: tuple[str, ...] = ()

    def start(self) -> None:
        """Start the server, and wait until it accepts connections."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [
            *(*self.prefix, str(S3_PROGRAM), "--port", f"127.0.0.1:{self.port}", *self.options),
            *("--access", self.key, "--secret", f"{self.key}-secret", "posix", str(self.folder)),
        ]
        self.process = started(command, log=self.log)
        end = time.monotonic() + _START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                assert time.monotonic() < end, f"the S3 server did not start: {self.log.read_text()[-2000:]}"
                time.sleep(0.05)

    def kill(self) -> None:
        """Kill the server."""
        if self.process is not None:
            kill_group(self.process)

    def environment(self, prefix: str = "", *, keyed: bool = True) -> dict[str, str]:
        """Return the environment variables for clients."""
        keys = {"AWS_ACCESS_KEY_ID": self.key, "AWS_SECRET_ACCESS_KEY": f"{self.key}-secret"} if keyed else {}
        values = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}", **keys}
        return {f"{prefix}{name}": value for name, value in values.items()}

    def bucket(self, name: str) -> S3Store:
        """Return a bucket, created if it is missing."""
        (self.folder / name).mkdir(exist_ok=True)
        return S3Store(
            name,
            endpoint=f"http://127.0.0.1:{self.port}",
            region="us-east-1",
            access_key_id=self.key,
            secret_access_key=f"{self.key}-secret",
            client_options={"allow_http": True},
        )

    def put(self, bucket: str, files: dict[str, bytes]) -> None:
        """Write objects."""
        store = self.bucket(bucket)
        for name, content in files.items():
            obstore.put(store, name, content)

    def reads(self, bucket: str) -> list[str]:
        """Return the objects of a bucket that were read, according to the server's log."""
        return re.findall(rf"\| GET \| /{bucket}/(\S+) ", self.log.read_text())


@contextmanager
def running_store(folder: Path, bucket: str) -> Iterator[S3Server]:
    """Run an S3 server with an empty bucket until the block ends."""
    server = S3Server(free_port(), "store", folder / "store", folder / "store.log")
    server.start()
    server.bucket(bucket)
    try:
        yield server
    finally:
        server.kill()
