"""The model servers that are compared: ours and its peers, each as a process on the same two cores."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from dev.paths import ROOT, STATE

PEERS = ROOT / "bench" / "peers"
ENVIRONMENTS = STATE / "peers"
STARTS_WITHIN = 120.0
CORES = sorted(os.sched_getaffinity(0))[:2]
_READY = re.compile(r"ready ([\d.]+) s after the process began: fetched in ([\d.]+) s, loaded in ([\d.]+) s")


@dataclass(frozen=True)
class Contestant:
    """One server: how it is started, where it answers, and in which form it takes a JPEG."""

    name: str
    command: tuple[str, ...]
    port: int
    path: str = "/predict"
    form: str = "raw"
    """raw, multipart or base64 in JSON."""
    ready: str = "/v2/health/ready"
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where images go."""
        return f"http://127.0.0.1:{self.port}{self.path}"


@dataclass(frozen=True)
class Start:
    """What our server says of its start, in seconds by its own clock."""

    ready: float
    """Since the process began; the next two are parts of it."""
    fetched: float
    loaded: float


def starts(log: str) -> list[Start]:
    """Return the starts in a log of our server."""
    return [Start(*map(float, figures)) for figures in _READY.findall(log)]


def ours(folder: Path, *, port: int, **settings: str) -> Contestant:
    """Our server as it comes."""
    environment = {"MODEL_URI": f"file://{folder}", "MODEL_DIR": str(folder), "PORT": str(port)}
    environment["METRICS_PORT"] = str(port + 1000)
    command = (sys.executable, "-m", "bloomery_serving")
    return Contestant("bloomery", command, port, environment=environment | settings)


def peers(folder: Path, scratch: Path, *, first_port: int) -> list[Contestant]:
    """LitServe, BentoML and MLflow, each with its defaults, and with our session options and a worker a core."""
    for name in ("litserve", "bentoml", "mlflow"):
        _install(name)
    saved = scratch / "mlflow-model"
    environment = {"MODEL_FOLDER": str(folder), "PYTHONPATH": str(PEERS)}
    if not saved.exists():
        command = [_python("mlflow"), str(PEERS / "mlflow_model.py"), str(saved)]
        subprocess.run(command, env={**os.environ, **environment}, check=True, capture_output=True)
    contestants: list[Contestant] = []
    for session, workers in (("default", "1"), ("tuned", str(len(CORES)))):
        more = environment | {"SESSION": session, "WORKERS": workers}
        port = first_port + 10 * len(contestants)
        contestants += [_litserve(session, port, more), _bentoml(session, port + 1, more)]
        contestants.append(_mlflow(session, port + 2, saved, more, workers))
    return contestants


def _litserve(session: str, port: int, environment: Mapping[str, str]) -> Contestant:
    command = (_python("litserve"), str(PEERS / "litserve_app.py"))
    more = {**environment, "PORT": str(port)}
    return Contestant(f"litserve {session}", command, port, form="base64", ready="/health", environment=more)


def _bentoml(session: str, port: int, environment: Mapping[str, str]) -> Contestant:
    program = str(ENVIRONMENTS / "bentoml" / "bin" / "bentoml")
    command = (program, "serve", "bentoml_app:Service", "--host", "127.0.0.1", "--port", str(port))
    more = {**environment, "BENTOML_DO_NOT_TRACK": "True"}
    return Contestant(f"bentoml {session}", command, port, form="multipart", ready="/readyz", environment=more)


def _mlflow(session: str, port: int, saved: Path, environment: Mapping[str, str], workers: str) -> Contestant:
    program = str(ENVIRONMENTS / "mlflow" / "bin" / "mlflow")
    where = ("--host", "127.0.0.1", "--port", str(port), "--workers", workers)
    command = (program, "models", "serve", "--model-uri", str(saved), "--env-manager", "local", *where)
    # It starts uvicorn and Python by name.
    more = {**environment, "PATH": f"{ENVIRONMENTS / 'mlflow' / 'bin'}:{os.environ['PATH']}"}
    return Contestant(
        f"mlflow {session}", command, port, path="/invocations", form="base64", ready="/ping", environment=more
    )


@contextmanager
def running(contestant: Contestant, log: Path, *, cores: Sequence[int] = CORES) -> Iterator[subprocess.Popen[bytes]]:
    """Start a server on the cores, wait until it is ready, and end it with all its processes."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            ["taskset", "--cpu-list", ",".join(map(str, cores)), *contestant.command],
            env={**os.environ, **contestant.environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=PEERS,
        )
    try:
        _wait_until_ready(contestant, process, log)
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _wait_until_ready(contestant: Contestant, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < end:
        if process.poll() is not None:
            raise SystemExit(f"{contestant.name} ended: {log.read_text()[-2000:]}")
        address = f"http://127.0.0.1:{contestant.port}{contestant.ready}"
        with suppress(urllib.error.URLError, ConnectionError, TimeoutError), urllib.request.urlopen(address, timeout=5):
            return
        time.sleep(0.02)
    raise SystemExit(f"{contestant.name} was not ready within {STARTS_WITHIN:.0f} s: {log.read_text()[-2000:]}")


def _python(peer: str) -> str:
    return str(ENVIRONMENTS / peer / "bin" / "python")


def _install(peer: str) -> None:
    """Make a peer's environment; each has pins of its own."""
    folder, pins = ENVIRONMENTS / peer, PEERS / f"{peer}.txt"
    stamp = folder / "pins"
    if stamp.exists() and stamp.read_text() == pins.read_text():
        return
    print(f"installing {peer} …", flush=True)
    uv = str(ROOT / ".venv" / "bin" / "uv")
    subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], check=True)
    subprocess.run([uv, "pip", "install", "--quiet", "--python", _python(peer), "-r", str(pins)], check=True)
    stamp.write_text(pins.read_text())
