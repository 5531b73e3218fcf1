"""Real trainer processes on this machine: started as a pod's are, watched over their port, killed, started again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

TOKEN = "the-token-of-the-stop"
CLASSES = ("null", "eins", "零")


@dataclass
class Trainer:
    """One process of the trainer and its port."""

    process: subprocess.Popen[bytes]
    port: int
    message_path: Path
    log_path: Path

    @property
    def message(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.message_path.read_text(encoding="utf-8"))
        return document

    @property
    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8")

    def progress(self) -> dict[str, Any]:
        """Return its progress; empty while it does not answer yet."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/progress", timeout=5) as answer:
                document: dict[str, Any] = json.load(answer)
                return document
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return {}

    def until(self, reached: Callable[[dict[str, Any]], bool], *, seconds: float = 300) -> dict[str, Any]:
        """The first progress for which that holds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            progress = self.progress()
            if progress and reached(progress):
                return progress
            assert self.process.poll() is None, f"it ended before: {self.log[-2000:]}"
            time.sleep(0.05)
        raise AssertionError(f"not within {seconds:.0f} s; last: {progress}")

    def post_stop(self, token: str) -> int:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/stop", method="POST", headers={"Authorization": f"Bearer {token}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=300)

    def wait(self, *, seconds: float = 600) -> int:
        return self.process.wait(timeout=seconds)


@dataclass
class Trainers:
    """Starts trainers, and ends those that a test left running."""

    folder: Path
    started: list[Trainer] = field(default_factory=list)

    def start(self, config: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> Trainer:
        number = len(self.started)
        path = self.folder / f"config-{number}.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        log = self.folder / f"log-{number}.txt"
        port = free_port()
        # MLflow's client leaves its server's address in this process' environment.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        variables = {
            **inherited,
            "BLOOMERY_PORT": str(port),
            "BLOOMERY_STOP_TOKEN": TOKEN,
            "TERMINATION_LOG": str(self.folder / f"message-{number}.json"),
            **(environment or {}),
        }
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "bloomery_trainer", str(config["kind"]), str(path)],
                env=variables,
                stderr=output,
                stdout=output,
            )
        trainer = Trainer(process, port, self.folder / f"message-{number}.json", log)
        self.started.append(trainer)
        return trainer

    def run(self, config: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> Trainer:
        """Runs it to its end, which has to be a good one."""
        trainer = self.start(config, environment)
        assert trainer.wait() == 0, trainer.log[-3000:]
        return trainer


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def trainers(tmp_path: Path) -> Iterator[Trainers]:
    factory = Trainers(tmp_path)
    yield factory
    for trainer in factory.started:
        if trainer.process.poll() is None:
            trainer.kill()


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A prepared dataset of three digits, 60 images of each, as an entry of `datasets`."""
    folder = tmp_path_factory.mktemp("digits")
    data = load_digits()
    for digit, name in enumerate(CLASSES):
        (folder / "raw" / name).mkdir(parents=True)
        for number, pixels in enumerate(data.images[data.target == digit][:60]):
            image = Image.fromarray((pixels * 15.9).astype(np.uint8)).resize((40, 40)).convert("RGB")
            image.save(folder / "raw" / name / f"{number}.png")
    config = {
        "kind": "prepare",
        "name": "digits",
        "source": {"uri": f"file://{folder}/raw"},
        # A seed by which exactly a fifth of each class is held out.
        "split": {"seed": 224},
        "output": {"uri": f"file://{folder}/store"},
    }
    message = Trainers(folder).run(config).message
    return {"name": "digits", "version": message["version"], "uri": message["uri"]}


@pytest.fixture
def train_config(digits: dict[str, Any], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """A short training on the digits; `output` names its folder below the test's own."""

    def config(output: str, hyperparameters: Mapping[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
        small = {"batchSize": 16, "imageSize": 32, "augmentation": "Light", "maxSteps": 60, "learningRate": 0.02}
        return {
            "kind": "train",
            "name": output,
            "namespace": "demo",
            "uid": output,
            "datasets": [digits],
            "preset": "resnet18",
            "initialModel": {"weights": "None"},
            "hyperparameters": {**small, **(hyperparameters or {})},
            "checkpoint": {"everySteps": 7},
            "mlflow": {"experiment": "demo/digits", "registeredModel": "digits"},
            "output": {"uri": f"file://{tmp_path}/{output}"},
            **changes,
        }

    return config
