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
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

LABELS = ("red", "green", "blue")
SIDE = 32
START_SECONDS = 120.0
"""A start takes one second on an idle machine, and twenty where many tests run at once."""
METRIC_SECONDS = 60.0


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that says which of the three colours is the strongest on average."""
    folder = tmp_path_factory.mktemp("model")
    write_model(folder)
    return folder


Colour = tuple[int, int, int]


def write_model(
    folder: Path, *, labels: tuple[str, ...] = LABELS, colours: tuple[Colour, ...] | None = None
) -> dict[str, str]:
    """Write a model folder and return its files' digests; with ``colours``, that of the nearest one wins."""
    onnx.save(_mean_colour() if colours is None else _nearest(colours), folder / "model.onnx")
    (folder / "labels.txt").write_text("\n".join(labels) + "\n", encoding="utf-8")
    preprocess = {"resize": SIDE, "crop": SIDE, "mean": [0, 0, 0], "std": [1, 1, 1]}
    (folder / "preprocess.json").write_text(json.dumps(preprocess))
    names = ("model.onnx", "labels.txt", "preprocess.json")
    files = {name: f"sha256:{hashlib.sha256((folder / name).read_bytes()).hexdigest()}" for name in names}
    (folder / "metadata.json").write_text(json.dumps({"format": 1, "files": files}))
    return files


def _mean_colour() -> onnx.ModelProto:
    return _linear(10 * np.eye(3), np.zeros(3))


def _nearest(colours: tuple[Colour, ...]) -> onnx.ModelProto:
    points = np.asarray(colours) / 255
    return _linear(40 * points.T, -20 * (points**2).sum(axis=1))


def _linear(weights: NDArray[np.float64], bias: NDArray[np.float64]) -> onnx.ModelProto:
    """A model of the mean colour: its product with the weights, and the bias."""
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["images"], ["mean"], axes=[2, 3], keepdims=0),
            helper.make_node("Gemm", ["mean", "weights", "bias"], ["logits"]),
        ],
        "mean-colour",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", len(bias)])],
        [
            numpy_helper.from_array(weights.astype(np.float32), "weights"),
            numpy_helper.from_array(bias.astype(np.float32), "bias"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@dataclass
class Server:
    """A server in a process of its own."""

    process: subprocess.Popen[bytes]
    url: str
    metrics_url: str
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
                pass  # it does not listen yet, or hands the port over
            time.sleep(0.05)
        raise AssertionError(f"the server was not ready within {START_SECONDS} s: {self.log.read_text()}")

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        families = text_string_to_metric_families(httpx.get(self.metrics_url).text)
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())

    def wait_for(self, value: float, name: str, **labels: str) -> None:
        """Wait until a metric has a value."""
        end = time.monotonic() + METRIC_SECONDS
        while (actual := self.metric(name, **labels)) != value:
            assert time.monotonic() < end, f"{name} {labels} is {actual}, not {value}, after {METRIC_SECONDS} s"
            time.sleep(0.02)

    def connect(self) -> socket.socket:
        """A connection of the test's own, for what no HTTP client would send."""
        host, port = self.url.removeprefix("http://").split(":")
        return socket.create_connection((host, int(port)), timeout=20)

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
        server = start_process(folder, {"model_uri": f"file://{model_folder}"} | settings)
        servers.append(server)
        if ready:
            server.wait_until_ready()
        return server

    yield start
    for server in servers:
        server.stop()
        server.client.close()


def start_process(folder: Path, settings: dict[str, str]) -> Server:
    """Start a server with these settings, by its own files in the folder."""
    with socket.socket() as one, socket.socket() as other:
        for probe in (one, other):
            probe.bind(("127.0.0.1", 0))
        port, metrics_port = (str(probe.getsockname()[1]) for probe in (one, other))
    log, termination_log = folder / "log", folder / "termination-log"
    defaults = {"port": port, "metrics_port": metrics_port, "model_dir": str(folder / "models")}
    defaults["service_name"] = "colours"
    environment = {name.upper(): value for name, value in (defaults | settings).items()}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "bloomery_serving"],
            env={**os.environ, **environment, "TERMINATION_LOG": str(termination_log)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    metrics_url = f"http://127.0.0.1:{metrics_port}/metrics"
    return Server(process, f"http://127.0.0.1:{port}", metrics_url, log, termination_log)


@pytest.fixture(scope="module")
def server(start_server: StartServer) -> Server:
    """An open server with lineage."""
    return start_server(
        variant="v1", model_name="colours", model_version="4", run_id="r1", training_job="t1", dataset_name="paint"
    )


def picture(colour: Colour, *, size: tuple[int, int] = (64, 48), kind: str = "PNG") -> bytes:
    """Return an image of one colour."""
    return encoded(Image.new("RGB", size, colour), kind)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """Return an image's file."""
    buffer = BytesIO()
    image.save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


RED, GREEN, BLUE = (200, 20, 20), (20, 200, 20), (20, 20, 200)
