"""MLflow servers that do not pass files on: the trainer and the model server use the servers' store directly."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest

from bloomery_operator.domain.served_model import ServedModel
from bloomery_serving.storage import fetch_model
from bloomery_trainer.cli import main
from bloomery_trainer.publish.run_record import open_record
from testing.servers import S3_PROGRAM, MlflowServer, S3Server, running_store
from tests.component.mlflow.conftest import Documents, config_of, made_model
from tests.component.mlflow.test_operator_resolves import ask
from tests.component.mlflow.test_serve_from_registry import brightness

pytestmark = pytest.mark.feature("O6")

AT_ONCE_SECONDS = 60
"""Far below the ten minutes that the end of a run waits for an MLflow that does not answer."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    if not S3_PROGRAM.exists():
        pytest.skip("`make cluster` builds the S3 server")
    with running_store(tmp_path_factory.mktemp("s3"), "mlflow") as server:
        yield server


@pytest.fixture(scope="module")
def in_s3(new_server: Callable[[], MlflowServer]) -> MlflowServer:
    """A server whose clients write files to S3 themselves."""
    server = new_server()
    server.artifact_options = ("--no-serve-artifacts", "--default-artifact-root", "s3://mlflow/root")
    server.start()
    return server


@pytest.fixture(scope="module")
def elsewhere(new_server: Callable[[], MlflowServer]) -> MlflowServer:
    """A server whose clients would have to write files to a store that is none of S3's."""
    server = new_server()
    server.artifact_options = ("--no-serve-artifacts", "--default-artifact-root", "gs://mlflow/root")
    server.start()
    return server


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    folder = tmp_path / "foreign"
    folder.mkdir()
    onnx.save(brightness(), folder / "brightness.onnx")
    (folder / "labels.txt").write_text("dark\nbright\n")
    return folder


def point_at(server: MlflowServer, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    variables = environment | {"MLFLOW_TRACKING_URI": f"{server.uri}\n"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return variables


def test_imported_model_goes_to_the_store_and_is_served_from_it(
    in_s3: MlflowServer, store: S3Server, foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = point_at(in_s3, store.environment(), monkeypatch)
    assert main(["import", foreign.as_uri(), "--name", "brightness"]) == 0
    model = ask({name: value.strip() for name, value in variables.items()}, "models:/brightness/1")
    assert isinstance(model, ServedModel), model
    assert model.uri.startswith("s3://mlflow/root/")
    stored = fetch_model(model.uri, tmp_path / "served", digest="", environment=variables)
    assert "model.onnx" in stored.files
    assert (tmp_path / "served/labels.txt").read_text() == "dark\nbright\n"


def test_files_of_a_run_are_listed_and_downloaded(
    in_s3: MlflowServer, store: S3Server, document: Documents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = point_at(in_s3, store.environment(), monkeypatch)
    record, version = registered(document(), variables | {"MLFLOW_TRACKING_URI": in_s3.uri}, tmp_path)
    assert version == "1"
    run = record.run_document()["runId"]
    client = in_s3.client()
    entries = {entry.path: entry.is_dir for entry in client.list_artifacts(run)}
    assert entries == {
        "confusion-matrix.csv": False,
        "evaluation.json": False,
        "labels.txt": False,
        "report.html": False,
    }
    folder = client.download_artifacts(run, "", str(tmp_path))
    assert (Path(folder) / "report.html").read_text(encoding="utf-8") == "<h1>报告</h1>"


def registered(document: dict[str, Any], environment: dict[str, str], tmp_path: Path) -> tuple[Any, str | None]:
    """Records a run with its model; returns its logger and the version."""
    record = open_record(config_of(document), None, environment)
    try:
        version = record.register(made_model(tmp_path / "made"))
    finally:
        record.close("FINISHED")
    publisher = record._publisher
    assert publisher is not None
    return publisher.run, version


def test_store_without_a_client_of_ours_is_named_at_once(
    elsewhere: MlflowServer, foreign: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    point_at(elsewhere, {}, monkeypatch)
    start = time.monotonic()
    assert main(["import", foreign.as_uri(), "--name", "brightness"]) == 2
    assert time.monotonic() - start < AT_ONCE_SECONDS
    assert "gs://mlflow/root" in caplog.text
    assert "--serve-artifacts" in caplog.text


def test_end_of_training_does_not_wait_for_unwritable_files(
    elsewhere: MlflowServer, document: Documents, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start = time.monotonic()
    _, version = registered(document(), {"MLFLOW_TRACKING_URI": elsewhere.uri}, tmp_path)
    assert version is None
    assert time.monotonic() - start < AT_ONCE_SECONDS
    assert "does not pass them on" in caplog.text
    assert "boto3" not in caplog.text and json.dumps(caplog.messages).count("No module named") == 0
