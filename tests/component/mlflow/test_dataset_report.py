"""The report of a dataset version in MLflow."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from testing.servers import MlflowServer


@pytest.fixture
def prepare(command: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    for number in range(50):
        path = tmp_path / "raw" / ("玫瑰", "tulips")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)

    def run(**changes: Any) -> Any:
        return command({
            "kind": "prepare",
            "name": tmp_path.name.replace("_", "-"),
            "namespace": "demo",
            "source": {"uri": f"file://{tmp_path}/raw"},
            "output": {"uri": f"file://{tmp_path}/store"},
            **changes,
        })  # fmt: skip

    return run


@pytest.mark.feature("D7")
@pytest.mark.feature("D10")
@pytest.mark.feature("D13")
def test_report_is_in_mlflow_once_for_each_version(
    mlflow: MlflowServer, prepare: Callable[..., Any], tmp_path: Path
) -> None:
    first, again = prepare(displayName="花卉", description="给花店用的"), prepare()
    other = prepare(rename={"tulips": "郁金香"})
    client = mlflow.client()
    where = first.message["mlflow"]
    run = client.get_run(where["runId"])
    page = urllib.request.urlopen(f"{mlflow.uri}/get-artifact?run_id={where['runId']}&path=report.html").read()

    name = tmp_path.name.replace("_", "-")
    assert client.get_experiment(where["experimentId"]).name == f"demo/{name}"
    assert run.info.run_name == f"dataset {name} {first.message['version'][:12]}"
    assert run.info.status == "FINISHED"
    assert run.data.tags["bloomery.dev/kind"] == "dataset"
    assert run.data.tags["mlflow.note.content"] == "花卉\n\n给花店用的"
    assert "玫瑰" in page.decode()
    assert again.message["mlflow"] == where
    assert other.message["mlflow"]["runId"] != where["runId"]


@pytest.mark.feature("D7")
def test_missed_report_is_recorded_by_the_next_preparation(
    mlflow: MlflowServer, prepare: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as away:
        away.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
        first = prepare()
    client = mlflow.client()
    # A training of the Dataset's name, which trained on that version in the meantime and has a report of its own.
    experiment = client.create_experiment(f"demo/{tmp_path.name.replace('_', '-')}")
    training = client.create_run(experiment, tags={"bloomery.dev/dataset-version": first.message["version"]})
    client.log_text(training.info.run_id, "", "report.html")
    later = prepare()

    assert first.message["mlflow"] == {"experimentId": None, "runId": None}
    assert later.message["mlflow"]["experimentId"] == experiment
    assert later.message["mlflow"]["runId"] != training.info.run_id
    artifacts = client.list_artifacts(later.message["mlflow"]["runId"])
    assert [artifact.path for artifact in artifacts] == ["report.html"]
