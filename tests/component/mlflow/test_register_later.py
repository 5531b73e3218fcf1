"""A training that ended while MLflow was away, and the `register` command that records it afterwards."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bloomery_trainer import model_folder
from bloomery_trainer.models.presets import PRESETS
from bloomery_trainer.publish.run_record import open_record
from bloomery_trainer.recipe import resolve
from bloomery_trainer.storage import S3Access, open_folder
from testing.processes import free_port
from testing.servers import MlflowServer
from tests.component.mlflow.conftest import Documents, Ended, config_of, made_model

pytestmark = pytest.mark.feature("T6")


@pytest.fixture
def ended(document: Documents, tmp_path: Path) -> dict[str, Any]:
    """The document of a training that left everything in its output folder, with MLflow away all the time."""
    job = document(
        mlflow={"experiment": "demo/later", "registeredModel": "later", "promote": {"alias": "champion"}},
        hyperparameters={"imageSize": 32, "batchSize": 16, "epochs": 2},
    )
    config = config_of(job)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    output = open_folder(config.output.uri, S3Access.from_environment({}), create=True)
    environment = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{free_port()}", "BLOOMERY_MLFLOW_WAIT_SECONDS": "0"}
    recipe = resolve(config.hyperparameters, PRESETS[config.preset], images=100, start="scratch")
    record = open_record(config, recipe, environment, output=output, scratch=scratch)
    record.begin(0)
    for step in range(1, 31):
        record.log({"train/loss": 1 / step}, step)
    record.log({"validation/top1": 0.75}, 30)
    model = made_model(scratch / "made")
    assert record.register(model) is None
    record.close("FINISHED")
    for name in model_folder.FILES:
        output.upload(model.folder / name, f"model/{name}")
    output.write(
        "model/metadata.json", model_folder.metadata(model.folder, {"model": {"name": "later", "version": None}})
    )
    for path in model.reports.iterdir():
        output.upload(path, path.name)
    output.write("train.log", b"it went well\n")
    result = {
        "uid": config.uid, "reason": "Trained", "mlflow": {"experimentId": None, "runId": None},
        "model": {"name": "later", "version": None, "uri": f"{config.output.uri}/model", "digest": model.digest},
        "metrics": dict(model.metrics), "starts": 1, "lastCheckpoint": None, "promoted": None, "notes": [],
    }  # fmt: skip
    output.write("result.json", json.dumps(result).encode())
    return job


def test_what_mlflow_could_not_take_is_registered_when_it_is_back(
    ended: dict[str, Any], mlflow: MlflowServer, command: Callable[..., Ended]
) -> None:
    code, message = command(ended, "register")

    assert code == 0, message
    client = mlflow.client()
    version = client.get_model_version("later", message["model"]["version"])
    run = client.get_run(message["mlflow"]["runId"])
    assert run.info.run_id == version.run_id
    assert run.info.status == "FINISHED"
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "train/loss")] == list(range(1, 31))
    assert run.data.metrics["validation/top1"] == 0.75
    assert run.data.metrics["top1"] == 0.9
    assert run.data.params["preset"] == "resnet18"
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"report.html", "evaluation.json", "labels.txt", "train.log", "tensorboard"} <= files
    assert message["promoted"]["moved"] is True
    assert client.get_model_version_by_alias("later", "champion").version == version.version

    folder = Path(ended["output"]["uri"].removeprefix("file://"))
    assert json.loads((folder / "result.json").read_text()) == message
    assert json.loads((folder / "model/metadata.json").read_text())["model"]["version"] == version.version


def test_the_times_of_the_curves_are_those_of_the_training(
    ended: dict[str, Any], mlflow: MlflowServer, command: Callable[..., Ended]
) -> None:
    _, message = command(ended, "register")

    client = mlflow.client()
    run = client.get_run(message["mlflow"]["runId"])
    first = client.get_metric_history(run.info.run_id, "train/loss")[0]
    events = next(Path(ended["output"]["uri"].removeprefix("file://"), "tensorboard").iterdir())
    assert abs(first.timestamp / 1000 - int(events.name.split(".")[3])) < 30
    assert run.info.start_time <= first.timestamp


def test_registering_twice_makes_one_version(
    ended: dict[str, Any], mlflow: MlflowServer, command: Callable[..., Ended]
) -> None:
    folder = Path(ended["output"]["uri"].removeprefix("file://"))
    before = (folder / "result.json").read_bytes()
    first = command(ended, "register")
    # As if it had been killed just before it wrote the result.
    (folder / "result.json").write_bytes(before)
    second = command(ended, "register")
    third = command(ended, "register")

    assert first.message["model"]["version"] == second.message["model"]["version"] == third.message["model"]["version"]
    assert len({ended.message["mlflow"]["runId"] for ended in (first, second, third)}) == 1
    history = mlflow.client().get_metric_history(first.message["mlflow"]["runId"], "train/loss")
    assert len(history) == 30


def test_while_mlflow_is_still_away_it_is_worth_trying_again(
    ended: dict[str, Any], command: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("BLOOMERY_MLFLOW_WAIT_SECONDS", "0")

    code, message = command(ended, "register")

    assert code == 1
    assert message["error"]["reason"] == "MlflowUnavailable"


def test_a_training_that_has_not_ended_cannot_be_registered(
    mlflow: MlflowServer, document: Documents, command: Callable[..., Ended]
) -> None:
    job = document()
    os.makedirs(job["output"]["uri"].removeprefix("file://"))  # noqa: PTH103

    code, message = command(job, "register")

    assert code == 2
    assert "the training has not ended" in message["error"]["message"]
