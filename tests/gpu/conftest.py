"""Drawn images, a prepared dataset of them, and trainings in this very process; what was seen is in the report.

These tests need a checkout, PyTorch, torchvision, numpy and pytest, and the wheels of `make gpu-wheels`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

IMAGES_PER_CLASS = 160
_SEEN = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_SEEN] = []


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Prints what the tests saw of the device."""
    terminalreporter.section("seen on this machine")
    for line in config.stash[_SEEN] or ["nothing: no test ran on a GPU"]:
        terminalreporter.write_line(line)


@pytest.fixture
def seen(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Adds a line to the report."""
    return request.config.stash[_SEEN].append


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, Any]], tuple[int, dict[str, Any]]]:
    """Runs a configuration in this process; its exit code and termination message."""
    from bloomery_trainer.cli import main

    folder = tmp_path_factory.mktemp("run")

    def command(config: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        path, message = folder / "config.json", folder / "message.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("TERMINATION_LOG", str(message))
            environment.setenv("BLOOMERY_PORT", "0")
            environment.setenv("BLOOMERY_PROCESSES", "1")
            environment.delenv("MLFLOW_TRACKING_URI", raising=False)
            code = main([str(config["kind"]), str(path)])
        return code, json.loads(message.read_text(encoding="utf-8"))

    return command


def _draw(path: Path, shape: str, generator: np.random.Generator) -> None:
    background, colour = (tuple(int(part) for part in generator.integers(0, 256, 3)) for _ in range(2))
    image = Image.new("RGB", (64, 64), background)
    left, top = (int(part) for part in generator.integers(2, 26, 2))
    box = (left, top, left + int(generator.integers(24, 36)), top + int(generator.integers(24, 36)))
    draw = ImageDraw.Draw(image)
    (draw.ellipse if shape == "ellipse" else draw.rectangle)(box, fill=colour)
    image.save(path)


@pytest.fixture(scope="session")
def dataset(
    tmp_path_factory: pytest.TempPathFactory, run: Callable[[dict[str, Any]], tuple[int, dict[str, Any]]]
) -> dict[str, str]:
    """Ellipses and rectangles, prepared, as an entry of `datasets`."""
    folder = tmp_path_factory.mktemp("drawn")
    generator = np.random.default_rng(1)
    for shape in ("ellipse", "rectangle"):
        (folder / "raw" / shape).mkdir(parents=True)
        for number in range(IMAGES_PER_CLASS):
            _draw(folder / "raw" / shape / f"{number}.png", shape, generator)
    code, message = run({
        "kind": "prepare", "name": "shapes", "source": {"uri": f"file://{folder}/raw"},
        "output": {"uri": f"file://{folder}/store"},
    })  # fmt: skip
    assert code == 0, message
    return {"name": "shapes", "version": message["version"], "uri": message["uri"]}


@pytest.fixture
def train_config(dataset: dict[str, str], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """A short training on the drawn images."""

    def config(**hyperparameters: Any) -> dict[str, Any]:
        short = {"batchSize": 32, "imageSize": 64, "augmentation": "Light", "maxSteps": 60}
        return {
            "kind": "train", "name": "shapes", "uid": "1", "datasets": [dataset], "preset": "resnet18",
            "initialModel": {"weights": "None"}, "hyperparameters": {**short, **hyperparameters},
            "mlflow": {"experiment": "gpu/shapes", "registeredModel": "shapes"},
            "output": {"uri": f"file://{tmp_path}/output"},
        }  # fmt: skip

    return config


@pytest.fixture
def trainer_log() -> Iterator[list[str]]:
    """Return the trainer's log of the test."""
    lines: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler = Lines()
    logger = logging.getLogger("bloomery_trainer")
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)
