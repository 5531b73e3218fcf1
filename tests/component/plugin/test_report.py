"""The command ``report`` with a real MLflow server."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from testing.samples import dataset, training_job
from tests.component.mlflow.conftest import (  # noqa: F401 - pytest finds the fixtures here
    MlflowServer,
    mlflow_program,
    new_server,
    shared_server,
)
from tests.component.plugin.conftest import Objects, Plugin

TRAINING, IMAGES = "<h1>How good 花 is</h1>", "<h1>What is in 花</h1>"
VERSION = "a" * 64


@pytest.fixture
def reported(objects: Objects, shared_server: MlflowServer) -> None:  # noqa: F811
    """A job and a Dataset of the same experiment, with the reports that the trainer logs."""
    client = shared_server.client()
    experiment = client.create_experiment(f"{objects.namespace}/flowers")
    runs = {}
    for kind, page in (("dataset", IMAGES), ("training", TRAINING)):
        tags = {"bloomery.dev/kind": kind, "bloomery.dev/dataset-version": VERSION}
        runs[kind] = client.create_run(experiment, tags=tags).info.run_id
        client.log_text(runs[kind], page, "report.html")
    address = base64.b64encode(shared_server.uri.encode()).decode()
    secret = {"metadata": {"name": "bloomery-storage"}, "data": {"MLFLOW_TRACKING_URI": address}}
    objects.create({"apiVersion": "v1", "kind": "Secret"} | secret)
    objects.create(training_job(), {"phase": "Complete", "mlflow": {"runId": runs["training"]}})
    objects.create(dataset(), {"phase": "Ready", "version": VERSION, "uri": f"s3://store/flowers/{VERSION}"})


@pytest.mark.feature("O5")
@pytest.mark.usefixtures("reported")
def test_reports_are_saved_printed_and_opened(bloomery: Plugin, objects: Objects, tmp_path: Path) -> None:
    saved = bloomery("report", "flowers", "-o", "report.html")
    printed = bloomery("report", "dset/flowers", "-o", "-")
    # This browser only prints the URL.
    opened = bloomery("report", "tj/flowers", BROWSER="echo %s")
    objects.create(training_job("early"))
    objects.create(
        training_job("old"), {"mlflow": {"runId": "0" * 32}, "model": {"uri": "s3://store/models/old/model"}}
    )
    early, gone = bloomery("report", "early"), bloomery("report", "old")

    assert (saved.returncode, saved.stdout) == (0, "The report of flowers is in report.html.\n"), saved.stderr
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == TRAINING
    assert printed.stdout == IMAGES
    address = opened.stdout.strip()
    assert Path(address.removeprefix("file://")).read_text(encoding="utf-8") == TRAINING
    Path(address.removeprefix("file://")).unlink()
    assert early.stderr == "error: MLflow has no report of early: it has not been made yet.\n"
    assert "the store has it at s3://store/models/old/report.html" in gone.stderr


@pytest.mark.feature("O5")
@pytest.mark.usefixtures("reported")
def test_secret_of_the_trainings_job_is_used(bloomery: Plugin, objects: Objects) -> None:
    copy = objects.get("secret", "bloomery-storage")
    objects.create({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "ours"}, "data": copy["data"]})
    done = objects.server.kubectl("delete", "secret", "bloomery-storage", "-n", objects.namespace)
    assert done.returncode == 0, done.stderr
    sources = [{"secretRef": {"name": "other"}, "prefix": "SOURCE_"}, {"secretRef": {"name": "ours"}}]
    container = {"name": "train", "image": "trainer", "envFrom": sources}
    labels = {"bloomery.dev/trainingjob": "flowers"}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "flowers-train", "labels": labels}}
    objects.create(job | {"spec": {"template": template}})

    ended = bloomery("report", "flowers", "-o", "-")

    assert ended.stdout == TRAINING, ended.stderr


@pytest.mark.feature("O5")
def test_missing_secret_report_and_server_are_named(bloomery: Plugin, objects: Objects) -> None:
    objects.create(training_job(), {"mlflow": {"runId": "1"}})

    no_secret = bloomery("report", "flowers")
    service = bloomery("report", "isvc/flowers")
    objects.create({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bloomery-storage"},
        "data": {"MLFLOW_TRACKING_URI": base64.b64encode(b"http://127.0.0.1:9").decode()},
    })  # fmt: skip
    away = bloomery("report", "flowers")

    assert no_secret.stderr == 'error: secrets "bloomery-storage" not found\n'
    assert service.stderr.startswith("error: isvc/flowers has no report: name a TrainingJob or a Dataset")
    assert away.stderr.startswith("error: MLflow at http://127.0.0.1:9 does not answer: ")
    assert len(away.stderr.splitlines()) == 1
