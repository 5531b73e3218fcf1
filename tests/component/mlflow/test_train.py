"""A whole training against a real MLflow server: what is in the registry answers as the model directory does."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from testing.processes import free_port
from testing.servers import MlflowServer, kill_group, started, until_answered
from tests.component.mlflow.conftest import CLASSES, IMAGE_SIZE, Documents, Ended

Trained = tuple[dict[str, Any], Ended]


@pytest.fixture(scope="module")
def trained(
    shared_server: MlflowServer,
    flowers: dict[str, Any],
    command: Callable[..., Ended],
    tmp_path_factory: pytest.TempPathFactory,
) -> Trained:
    """A training's document and how it ended."""
    document = Documents(tmp_path_factory.mktemp("trained"), flowers)
    job = document(
        displayName="花卉识别",
        mlflow={"experiment": "demo/花卉", "registeredModel": "flowers", "promote": {"alias": "champion"}},
    )
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MLFLOW_TRACKING_URI", shared_server.uri)
        ended = command(job)
    assert ended.code == 0, ended.message
    return job, ended


@pytest.fixture(scope="module")
def served(shared_server: MlflowServer, trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address at which MLflow serves the registered model."""
    log = tmp_path_factory.mktemp("served") / "serve.log"
    port = free_port()
    model = f"models:/flowers/{trained[1].message['model']['version']}"
    process = started(
        [
            *(str(shared_server.program), "models", "serve", "--model-uri", model),
            *("--port", str(port), "--env-manager", "local"),
        ],
        log=log,
        environment={
            "MLFLOW_TRACKING_URI": shared_server.uri,
            "PATH": f"{shared_server.program.parent}:/usr/bin:/bin",
        },
    )
    try:
        until_answered(f"http://127.0.0.1:{port}/ping", process, log=log)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        kill_group(process)


@pytest.mark.feature("T6")
@pytest.mark.feature("S1")
def test_mlflow_serves_the_registered_model_with_the_right_scores(served: str, trained: Trained) -> None:
    images = np.random.default_rng(3).normal(size=(2, 3, IMAGE_SIZE, IMAGE_SIZE)).astype(np.float32)

    answer = np.asarray(posted(served, {"inputs": {"images": images.tolist()}})["predictions"]["logits"])

    assert answer.shape == (2, len(CLASSES))
    assert answer == pytest.approx(expected(trained, images), abs=1e-4)


def test_mlflow_refuses_what_the_signature_does_not_fit(served: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        posted(served, {"inputs": {"images": [[1.0, 2.0]]}})

    assert refused.value.code == 400


@pytest.mark.feature("T6")
@pytest.mark.feature("D6")
@pytest.mark.feature("D13")
def test_the_curves_of_a_whole_training_are_in_mlflow(trained: Trained, shared_server: MlflowServer) -> None:
    job, ended = trained
    client = shared_server.client()
    run = client.get_run(ended.message["mlflow"]["runId"])

    # 96 images in batches of 16, three times.
    steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "train/loss")]
    assert steps == list(range(1, 19))
    epochs = [metric.step for metric in client.get_metric_history(run.info.run_id, "validation/top1")]
    assert epochs == [6, 12, 18]
    assert run.data.metrics["train/images_per_second"] > 0
    assert run.data.metrics["top1"] == pytest.approx(ended.message["metrics"]["top1"], abs=1e-6)
    assert run.data.tags["bloomery.dev/evaluated-on"] == "validation"
    assert run.info.run_name == job["name"]
    assert run.info.status == "FINISHED"
    assert run.data.tags["bloomery.dev/display-name"] == "花卉识别"


@pytest.mark.feature("T9")
@pytest.mark.feature("T10")
def test_report_and_log_are_in_mlflow_and_in_the_output_folder(trained: Trained, shared_server: MlflowServer) -> None:
    job, ended = trained
    files = {file.path for file in shared_server.client().list_artifacts(ended.message["mlflow"]["runId"])}
    folder = Path(job["output"]["uri"].removeprefix("file://"))
    output_files = {path.name for path in folder.iterdir()}

    expected = {"report.html", "evaluation.json", "predictions.csv", "train.log", "tensorboard"}
    assert expected <= files
    assert expected | {"model", "result.json"} <= output_files


@pytest.mark.feature("T15")
def test_the_new_version_is_promoted_and_the_result_says_so(trained: Trained, shared_server: MlflowServer) -> None:
    version = trained[1].message["model"]["version"]

    assert trained[1].message["promoted"]["moved"] is True
    assert str(shared_server.client().get_model_version_by_alias("flowers", "champion").version) == version


@pytest.mark.feature("T6")
def test_a_training_without_mlflow_is_registered_afterwards_with_all_its_curves(
    mlflow: MlflowServer, document: Documents, command: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = document()
    with monkeypatch.context() as away:
        away.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
        away.setenv("BLOOMERY_MLFLOW_WAIT_SECONDS", "0")
        before = command(job)
    assert before.code == 0, before.message
    assert before.message["model"]["version"] is None

    after = command(job, "register")

    assert after.code == 0, after.message
    assert after.message == {
        **before.message,
        "mlflow": after.message["mlflow"],
        "model": {**before.message["model"], "version": "1"},
    }
    history = mlflow.client().get_metric_history(after.message["mlflow"]["runId"], "train/loss")
    assert [metric.step for metric in history] == list(range(1, 19))


def expected(trained: Trained, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the answers of the model directory in the output folder."""
    folder = Path(trained[0]["output"]["uri"].removeprefix("file://"))
    session = onnxruntime.InferenceSession(folder / "model" / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"images": images})
    return np.asarray(logits)


def posted(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        document: dict[str, Any] = json.load(answer)
        return document
