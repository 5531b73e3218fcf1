"""Runs in MLflow, also while MLflow is slow, away, or back again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from bloomery_trainer.config import TrainConfig
from bloomery_trainer.models.presets import PRESETS
from bloomery_trainer.publish.run_record import RunRecord, open_record
from bloomery_trainer.recipe import resolve
from bloomery_trainer.storage import S3Access, open_folder
from tests.component.mlflow.conftest import Documents, MlflowServer, config_of, made_model


def opened(config: TrainConfig, uri: str, scratch: Path, *, wait: float = 30) -> RunRecord:
    """The record that a training opens."""
    scratch.mkdir(exist_ok=True, parents=True)
    output = open_folder(config.output.uri, S3Access.from_environment({}), create=True)
    environment = {"MLFLOW_TRACKING_URI": uri, "BLOOMERY_MLFLOW_WAIT_SECONDS": str(wait)}
    recipe = resolve(config.hyperparameters, PRESETS[config.preset], images=100, start="scratch")
    return open_record(config, recipe, environment, output=output, scratch=scratch)


def the_run(client: MlflowClient, config: TrainConfig) -> Run:
    experiment = client.get_experiment_by_name(config.mlflow.experiment)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    return client.get_run(run.info.run_id)


def history(client: MlflowClient, run: Run, key: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, key)]


@pytest.mark.feature("T6")
@pytest.mark.feature("T18")
@pytest.mark.feature("D10")
@pytest.mark.feature("D13")
def test_a_run_holds_its_parameters_curves_datasets_and_origin(
    mlflow: MlflowServer, document: Documents, digits: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    more = digits("more", first=40, count=25)
    config = config_of(document(
        datasets=[document.dataset, more],
        displayName="花卉", description="给花店用的", metric="f1",
        mlflow={"experiment": "demo/curves", "registeredModel": "curves", "versionLabel": "1.0", "tags": {"team": "a"}},
    ))  # fmt: skip
    record = opened(config, mlflow.uri, tmp_path / "scratch")
    record.begin(0)
    for step in range(1, 6):
        record.log({"train/loss": 1 / step, "train/learning_rate": 0.1}, step)
    record.log({"validation/top1": 0.5}, 5)
    version = record.register(made_model(tmp_path / "made"))
    record.close("FINISHED")

    client = mlflow.client()
    run = the_run(client, config)
    assert run.info.status == "FINISHED"
    experiment = client.get_experiment(run.info.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    assert history(client, run, "train/loss") == [(step, pytest.approx(1 / step)) for step in range(1, 6)]
    assert history(client, run, "validation/top1") == [(5, 0.5)]
    assert run.data.metrics["top1"] == 0.9
    assert run.data.params["preset"] == "resnet18"
    assert run.data.params["batchSize"] == "16"
    assert run.data.tags["bloomery.dev/dataset"] == "flowers,more"
    assert run.data.tags["bloomery.dev/dataset-version"] == f"{document.dataset['version']},{more['version']}"
    assert run.data.tags["bloomery.dev/trainingjob"] == f"demo/{config.name}"
    assert run.data.tags["bloomery.dev/uid"] == config.uid
    assert run.data.tags["team"] == "a"
    assert run.data.tags["mlflow.note.content"] == "花卉\n\n给花店用的"
    inputs = {input_.dataset.name: input_.dataset.digest for input_ in run.inputs.dataset_inputs}
    assert inputs == {"flowers": document.dataset["version"][:36], "more": more["version"][:36]}

    registered = client.get_model_version("curves", version)
    assert registered.run_id == run.info.run_id
    assert registered.tags["bloomery.dev/version-label"] == "1.0"
    assert registered.tags["bloomery.dev/uri"] == f"{config.output.uri}/model"
    assert "给花店用的" in registered.description
    assert client.get_registered_model("curves").description == "花卉\n\n给花店用的"


@pytest.mark.feature("T6")
def test_the_machines_own_figures_are_recorded_too(mlflow: MlflowServer, document: Documents, tmp_path: Path) -> None:
    config = config_of(document())
    record = opened(config, mlflow.uri, tmp_path / "scratch")
    record.begin(0)
    record.report(made_model(tmp_path / "made").reports, {"top1": 0.5}, evaluated_on="test")
    record.close("FINISHED")

    metrics = the_run(mlflow.client(), config).data.metrics
    assert metrics["system/system_memory_usage_megabytes"] > 0
    assert {"system/cpu_utilization_percentage", "system/disk_usage_percentage"} <= set(metrics)


@pytest.mark.feature("T7")
@pytest.mark.feature("T9")
def test_reports_log_labels_and_events_are_artifacts_of_the_run(
    mlflow: MlflowServer, document: Documents, tmp_path: Path
) -> None:
    config = config_of(document())
    record = opened(config, mlflow.uri, tmp_path / "scratch")
    record.begin(0)
    record.log({"train/loss": 1.0}, 1)
    record.register(made_model(tmp_path / "made"))
    (tmp_path / "train.log").write_text("it went well\n")
    record.log_file(tmp_path / "train.log")
    record.close("FINISHED")

    client = mlflow.client()
    run = the_run(client, config)
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"evaluation.json", "report.html", "labels.txt", "train.log", "confusion-matrix.csv", "tensorboard"} <= files
    (events,) = client.list_artifacts(run.info.run_id, "tensorboard")
    assert "tfevents" in events.path
    matrix = Path(client.download_artifacts(run.info.run_id, "confusion-matrix.csv", str(tmp_path)))
    assert matrix.read_text(encoding="utf-8").splitlines()[0].endswith("null,eins,零")


@pytest.mark.feature("T13")
def test_a_restarted_pod_continues_the_run_without_repeated_steps(
    mlflow: MlflowServer, document: Documents, tmp_path: Path
) -> None:
    config = config_of(document())
    first = opened(config, mlflow.uri, tmp_path / "first")
    first.begin(0)
    for step in range(1, 9):
        first.log({"train/loss": 8.0}, step)
    first.close("KILLED")
    client = mlflow.client()
    assert until(lambda: len(history(client, the_run(client, config), "train/loss")) == 8)

    second = opened(config, mlflow.uri, tmp_path / "second")
    second.begin(6)
    for step in range(7, 13):
        second.log({"train/loss": 9.0}, step)
    second.register(made_model(tmp_path / "made"))
    second.close("FINISHED")

    run = the_run(client, config)
    assert [step for step, _ in history(client, run, "train/loss")] == list(range(1, 13))
    samples = [step for step, _ in history(client, run, "system/cpu_utilization_percentage")]
    assert samples == list(range(len(samples)))
    assert len(client.list_artifacts(run.info.run_id, "tensorboard")) == 2
    assert run.info.status == "FINISHED"
    assert len(run.inputs.dataset_inputs) == 1


@pytest.mark.extended
@pytest.mark.feature("O4")
def test_a_server_that_goes_away_and_comes_back_gets_every_step(
    new_server: Callable[[], MlflowServer], document: Documents, tmp_path: Path
) -> None:
    server, config = new_server(), config_of(document())
    server.start()
    record = opened(config, server.uri, tmp_path / "scratch", wait=120)
    record.begin(0)
    record.log({"train/loss": 1.0}, 1)
    client = server.client()
    assert until(lambda: history(client, the_run(client, config), "train/loss") == [(1, 1.0)])
    server.kill()
    for step in range(2, 101):
        record.log({"train/loss": 1.0}, step)
    back = threading.Timer(3, server.start)
    back.start()

    version = record.register(made_model(tmp_path / "made"))

    back.join()
    record.close("FINISHED")
    assert version == "1"
    assert [step for step, _ in history(client, the_run(client, config), "train/loss")] == list(range(1, 101))


@pytest.mark.extended
@pytest.mark.feature("O4")
def test_a_server_that_hangs_delays_no_training(
    new_server: Callable[[], MlflowServer], document: Documents, tmp_path: Path
) -> None:
    server, config = new_server(), config_of(document())
    server.start()
    server.pause()
    try:
        record = opened(config, server.uri, tmp_path / "scratch")
        record.begin(0)
        began = time.monotonic()
        for step in range(1, 2001):
            record.log({"train/loss": 1.0, "train/learning_rate": 0.1}, step)
        assert time.monotonic() - began < 5
        assert record.run_document() == {"experimentId": None, "runId": None}
    finally:
        server.go_on()
    client = server.client()
    assert until(lambda: len(history(client, the_run(client, config), "train/loss")) == 2000, seconds=120)
    record.close("FINISHED")


def test_people_may_describe_a_registered_model_and_keep_their_words(
    mlflow: MlflowServer, document: Documents, tmp_path: Path
) -> None:
    client = mlflow.client()
    client.create_registered_model("described", description="ours")
    config = config_of(
        document(description="theirs", mlflow={"experiment": "demo/described", "registeredModel": "described"})
    )
    record = opened(config, mlflow.uri, tmp_path / "scratch")
    record.register(made_model(tmp_path / "made"))
    record.close("FINISHED")

    assert client.get_registered_model("described").description == "ours"


def until(reached: Callable[[], bool], *, seconds: float = 30) -> bool:
    """Whether it holds before the time is over; what is not there yet counts as not holding."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if reached():
                return True
        except (AssertionError, ValueError):
            pass
        time.sleep(0.2)
    return reached()
