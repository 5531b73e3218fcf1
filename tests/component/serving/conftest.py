"""A real tiny classifier whose right answers are known, and a real server around it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

LABELS = ("red", "green", "blue")
SIDE = 32
START_SECONDS = 20.0


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that says which of the three colours is the strongest on average."""
    folder = tmp_path_factory.mktemp("model")
    write_model(folder)
    return folder


def write_model(folder: Path, *, labels: tuple[str, ...] = LABELS) -> dict[str, str]:
    """Write a model folder and return its files' digests."""
    onnx.save(_mean_colour(), folder / "model.onnx")
    (folder / "labels.txt").write_text("\n".join(labels) + "\n", encoding="utf-8")
    preprocess = {"resize": SIDE, "crop": SIDE, "mean": [0, 0, 0], "std": [1, 1, 1]}
    (folder / "preprocess.json").write_text(json.dumps(preprocess))
    names = ("model.onnx", "labels.txt", "preprocess.json")
    files = {name: f"sha256:{hashlib.sha256((folder / name).read_bytes()).hexdigest()}" for name in names}
    (folder / "metadata.json").write_text(json.dumps({"format": 1, "files": files}))
    return files


def _mean_colour() -> onnx.ModelProto:
    scale = numpy_helper.from_array(np.float32(10), "scale")
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["images"], ["mean"], axes=[2, 3], keepdims=0),
            helper.make_node("Mul", ["mean", "scale"], ["logits"]),
        ],
        "mean-colour",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])],
        [scale],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@dataclass
class Server:
    """A server in a process of its own."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path
    termination_log: Path
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = httpx.Client(base_url=self.url, timeout=30)

    def wait_until_ready(self) -> None:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended: {self.log.read_text()}")
            try:
                if self.client.get("/v2/health/ready").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.05)
        raise AssertionError(f"the server was not ready within {START_SECONDS} s: {self.log.read_text()}")

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


StartServer = Callable[..., Server]


@pytest.fixture(scope="module")
def start_server(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartServer]:
    """Start servers with settings of the test's own; they end with the module."""
    servers: list[Server] = []

    def start(*, ready: bool = True, **settings: str) -> Server:
        folder = tmp_path_factory.mktemp("server")
        server = _start(folder, {"model_uri": f"file://{model_folder}"} | settings)
        servers.append(server)
        if ready:
            server.wait_until_ready()
        return server

    yield start
    for server in servers:
        server.stop()
        server.client.close()


def _start(folder: Path, settings: dict[str, str]) -> Server:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log, termination_log = folder / "log", folder / "termination-log"
    defaults = {"port": str(port), "metrics_port": "0", "model_dir": str(folder / "models"), "service_name": "colours"}
    environment = {name.upper(): value for name, value in (defaults | settings).items()}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "bloomery_serving"],
            env={**os.environ, **environment, "TERMINATION_LOG": str(termination_log)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    return Server(process, f"http://127.0.0.1:{port}", log, termination_log)


@pytest.fixture(scope="module")
def server(start_server: StartServer) -> Server:
    """An open server with lineage."""
    return start_server(
        variant="v1", model_name="colours", model_version="4", run_id="r1", training_job="t1", dataset_name="paint"
    )


def picture(colour: tuple[int, int, int], *, size: tuple[int, int] = (64, 48), kind: str = "PNG") -> bytes:
    """Return an image of one colour."""
    return encoded(Image.new("RGB", size, colour), kind)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """Return an image's file."""
    buffer = BytesIO()
    image.save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


RED, GREEN, BLUE = (200, 20, 20), (20, 200, 20), (20, 20, 200)
