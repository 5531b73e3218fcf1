"""A real MLflow server of the shipped version, real runs against it, and the ways in which it can be away."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient
from PIL import Image
from sklearn.datasets import load_digits

import bloomery_trainer.torch_runtime  # noqa: F401  (settles how torch's threads wait, before torch is loaded)
from bloomery_model import Preprocess
from bloomery_trainer.cli import main
from bloomery_trainer.config import TrainConfig
from bloomery_trainer.models import export
from bloomery_trainer.publish.mlflow_publisher import TrainedModel
from testing.operator_process import OperatorProcess
from testing.processes import free_port
from testing.servers import MlflowServer, install_mlflow

CLASSES = ("null", "eins", "零")
IMAGE_SIZE = 32


@pytest.fixture(scope="session")
def mlflow_program() -> Path:
    """The `mlflow` command in an environment of its own."""
    return install_mlflow()


@pytest.fixture(scope="session")
def new_server(mlflow_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], MlflowServer]]:
    """Makes servers that are not started yet; all end with the test session."""
    made: list[MlflowServer] = []

    def make() -> MlflowServer:
        made.append(MlflowServer(mlflow_program, tmp_path_factory.mktemp("mlflow"), free_port()))
        return made[-1]

    yield make
    for server in made:
        server.kill()


@pytest.fixture(scope="session")
def shared_server(new_server: Callable[[], MlflowServer]) -> MlflowServer:
    server = new_server()
    server.start()
    return server


@pytest.fixture
def mlflow(shared_server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> MlflowServer:
    """A server that is up, and where the trainer finds it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", shared_server.uri)
    monkeypatch.setenv("BLOOMERY_MLFLOW_WAIT_SECONDS", "30")
    return shared_server


@pytest.fixture
def own_operator(own_operator: OperatorProcess, mlflow: MlflowServer) -> OperatorProcess:
    """Give an operator that may contact the server, and an address where none is."""
    own_operator.set("BLOOMERY_MLFLOW_ADDRESSES", f"{mlflow.uri},http://127.0.0.1:9")
    return own_operator


class Registry:
    """A registered model of the registry, with versions as trainings leave them."""

    def __init__(self, client: MlflowClient, name: str) -> None:
        self.name = name
        self._client = client
        client.create_registered_model(name)

    def add(self) -> str:
        """Register a version; return its number."""
        number = str(len(self._client.search_model_versions(f"name = '{self.name}'")) + 1)
        tags = {
            "bloomery.dev/uri": f"s3://models/{number}",
            "bloomery.dev/digest": "sha256:" + number * 64,
            "bloomery.dev/trainingjob": "elsewhere/flowers",
            "bloomery.dev/dataset": "flowers",
            "bloomery.dev/dataset-version": "a" * 64,
        }
        made = self._client.create_model_version(self.name, source=f"s3://models/{number}", tags=tags)
        assert made.version == number
        return number

    def champion(self, number: str) -> None:
        """Move the alias, as a click in the UI does."""
        self._client.set_registered_model_alias(self.name, "champion", number)

    def tags(self, number: str) -> dict[str, str]:
        """Return a version's tags."""
        return self._client.get_model_version(self.name, number).tags


class Ended(NamedTuple):
    """The end of a command."""

    code: int
    message: dict[str, Any]


@pytest.fixture(scope="session")
def command(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Ended]:
    """Runs a command of the trainer in this process, as its configuration says."""
    folder = tmp_path_factory.mktemp("command")

    def run(config: dict[str, Any], name: str | None = None) -> Ended:
        path, message = folder / "config.json", folder / "termination.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("TERMINATION_LOG", str(message))
            environment.setenv("BLOOMERY_PORT", "0")
            code = main([name or str(config["kind"]), str(path)])
        return Ended(code, json.loads(message.read_text(encoding="utf-8")))

    return run


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory, command: Callable[..., Ended]) -> Callable[..., dict[str, Any]]:
    """Prepares some images of three digits as a dataset version; gives its entry of `datasets`."""

    def prepare(name: str, *, first: int = 0, count: int = 40) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp("digits")
        data = load_digits()
        for digit, label in enumerate(CLASSES):
            (folder / "raw" / label).mkdir(parents=True)
            for number, pixels in enumerate(data.images[data.target == digit][first : first + count]):
                image = Image.fromarray((pixels * 15.9).astype(np.uint8)).resize((40, 40)).convert("RGB")
                image.save(folder / "raw" / label / f"{number}.png")
        ended = command({
            "kind": "prepare",
            "name": name,
            "source": {"uri": f"file://{folder}/raw"},
            # A seed by which exactly a fifth of the first 40 images of each class is held out.
            "split": {"seed": 118},
            "output": {"uri": f"file://{folder}/store"},
        })  # fmt: skip
        assert ended.code == 0, ended.message
        return {"name": name, "version": ended.message["version"], "uri": ended.message["uri"]}

    return prepare


@pytest.fixture(scope="session")
def flowers(digits: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return digits("flowers")


@dataclass
class Documents:
    """Writes training documents that differ from a short and small one; each has a uid and a name of its own."""

    folder: Path
    dataset: dict[str, Any]
    made: int = field(default=0)

    def __call__(self, **changes: Any) -> dict[str, Any]:
        self.made += 1
        name = f"{self.folder.name}-{self.made}".replace("_", "-")
        return {
            "kind": "train",
            "name": name,
            "namespace": "demo",
            "uid": name,
            "datasets": [self.dataset],
            "preset": "resnet18",
            "initialModel": {"weights": "None"},
            "hyperparameters": {
                **{"batchSize": 16, "imageSize": IMAGE_SIZE, "augmentation": "None", "horizontalFlip": False},
                **{"epochs": 3, "learningRate": 0.02},
            },
            "mlflow": {"experiment": f"demo/{name}", "registeredModel": name},
            "output": {"uri": f"file://{self.folder}/{name}"},
            **changes,
        }


@pytest.fixture
def document(tmp_path: Path, flowers: dict[str, Any]) -> Documents:
    return Documents(tmp_path, flowers)


class Guess(torch.nn.Module):
    """A network that answers by the brightness of an image: class k is the brighter the higher k is."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.linspace(-1, 1, classes)[None, :])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(1, 2, 3))[:, None] * self.weight


def made_model(folder: Path, *, top1: float = 0.9, classes: tuple[str, ...] = CLASSES) -> TrainedModel:
    """A small exported model with its reports, as a training leaves it."""
    (folder / "model").mkdir(parents=True)
    (folder / "reports").mkdir()
    preprocess = Preprocess.for_size(IMAGE_SIZE)
    examples = torch.rand(2, 3, IMAGE_SIZE, IMAGE_SIZE)
    digest = export.write_model(
        folder / "model", Guess(len(classes)), classes=classes, preprocess=preprocess, examples=examples
    )
    evaluation = {"classes": [{"name": name} for name in classes], "confusionMatrix": np.eye(len(classes)).tolist()}
    (folder / "reports" / "evaluation.json").write_text(json.dumps(evaluation), encoding="utf-8")
    (folder / "reports" / "report.html").write_text("<h1>报告</h1>", encoding="utf-8")
    metrics = {"top1": top1, "f1": top1, "loss": 1 - top1}
    return TrainedModel(
        folder=folder / "model", reports=folder / "reports", digest=digest, classes=len(classes), metrics=metrics
    )


def config_of(document: dict[str, Any]) -> TrainConfig:
    return TrainConfig.model_validate(document)
