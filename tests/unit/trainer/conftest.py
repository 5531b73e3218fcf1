"""Real images in real folders, and the two commands as a user runs them, without a cluster."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import bloomery_trainer.torch_runtime  # noqa: F401  (settles how torch's threads wait, before torch is loaded)
from bloomery_trainer.cli import main


class Ended(NamedTuple):
    """The end of a command: its exit code and the message it left for Kubernetes."""

    code: int
    message: dict[str, Any]

    @property
    def reason(self) -> str:
        return str(self.message["error"]["reason"])

    @property
    def sentence(self) -> str:
        return str(self.message["error"]["message"])


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, Any]], Ended]:
    """Runs a configuration in this process and says how it ended."""
    folder = tmp_path_factory.mktemp("run")

    def command(config: dict[str, Any]) -> Ended:
        path, message = folder / "config.json", folder / "termination.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("TERMINATION_LOG", str(message))
            environment.setenv("BLOOMERY_PORT", "0")
            code = main([str(config["kind"]), str(path)])
        return Ended(code, json.loads(message.read_text(encoding="utf-8")))

    return command


@pytest.fixture(scope="session")
def write_image() -> Callable[..., None]:
    """Writes an image of coarse noise: large enough for the rules, small enough to be quick."""

    def write(path: Path, *, size: tuple[int, int] = (40, 40), seed: int = 0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(noise).resize(size).save(path)

    return write


@pytest.fixture
def prepare(run: Callable[[dict[str, Any]], Ended], tmp_path: Path) -> Callable[..., Ended]:
    """Prepares a local folder below `tmp_path/store`, with changes to the plain configuration."""

    def prepare_folder(folder: Path, *, store: str = "store", **changes: Any) -> Ended:
        config = {
            "kind": "prepare",
            "name": "flowers",
            "namespace": "demo",
            "source": {"uri": f"file://{folder}", "layout": "Auto"},
            "output": {"uri": f"file://{tmp_path}/{store}"},
        }
        return run({**config, **changes})

    return prepare_folder


@pytest.fixture
def flowers(tmp_path: Path, write_image: Callable[..., None]) -> Path:
    """Two classes, of 25 and 20 images."""
    folder = tmp_path / "flowers"
    for number in range(25):
        write_image(folder / "roses" / f"{number}.png", seed=number)
    for number in range(20):
        write_image(folder / "tulips" / f"{number}.jpg", seed=100 + number)
    return folder


CLASSES = ("null", "eins", "零")


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory, run: Callable[[dict[str, Any]], Ended]) -> dict[str, str]:
    """A prepared dataset of three digits, 40 images of each, as a `dataset` stanza."""
    folder = tmp_path_factory.mktemp("digits")
    data = load_digits()
    for digit, name in enumerate(CLASSES):
        (folder / "raw" / name).mkdir(parents=True)
        for number, pixels in enumerate(data.images[data.target == digit][:40]):
            image = Image.fromarray((pixels * 15.9).astype(np.uint8)).resize((40, 40)).convert("RGB")
            image.save(folder / "raw" / name / f"{number}.png")
    ended = run({
        "kind": "prepare",
        "name": "digits",
        "source": {"uri": f"file://{folder}/raw"},
        # A seed by which exactly a fifth of each class is held out.
        "split": {"seed": 118},
        "output": {"uri": f"file://{folder}/store"},
    })  # fmt: skip
    return {"name": "digits", "version": ended.message["version"], "uri": ended.message["uri"]}


@pytest.fixture(scope="session")
def train(
    run: Callable[[dict[str, Any]], Ended], digits: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Any]:
    """Trains on the digits, with changes to a short and small configuration; the output folder is new each time."""

    def train_digits(hyperparameters: dict[str, Any] | None = None, **changes: Any) -> Any:
        small = {"batchSize": 16, "imageSize": 32, "augmentation": "None", "horizontalFlip": False, "maxSteps": 2}
        config = {
            "kind": "train",
            "name": "small",
            "namespace": "demo",
            "uid": "1234",
            "datasets": [digits],
            "preset": "resnet18",
            "initialModel": {"weights": "None"},
            "hyperparameters": small if hyperparameters is None else {**small, **hyperparameters},
            "mlflow": {"experiment": "demo/digits", "registeredModel": "digits"},
            "output": {"uri": f"file://{tmp_path_factory.mktemp('output')}"},
        }
        return run({**config, **changes})

    return train_digits
