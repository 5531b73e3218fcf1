"""The command ``suspects`` with a real MLflow server and a real API server."""

from __future__ import annotations

import base64
import json

import pytest

from testing.samples import dataset, training_job
from tests.component.mlflow.conftest import (  # noqa: F401 - pytest finds the fixtures here
    MlflowServer,
    mlflow_program,
    new_server,
    shared_server,
)
from tests.component.plugin.conftest import Objects, Plugin

pytestmark = pytest.mark.feature("D16")

SUSPECTS = [
    {
        "number": 1, "dataset": "flowers", "image": "roses/花 1.jpg", "class": "roses", "likely": "tulips",
        "classScore": 0.0123, "likelyScore": 0.97, "action": "Move",
    },
    {
        "number": 2, "dataset": "flowers", "image": "roses/cowboy.jpg", "class": "roses", "likely": "daisy",
        "classScore": 0.11, "likelyScore": 0.4, "action": "Exclude",
    },
]  # fmt: skip


@pytest.fixture
def job(objects: Objects, shared_server: MlflowServer) -> None:  # noqa: F811
    """A finished job whose run has suspects, and its Dataset, which leaves out an image already."""
    client = shared_server.client()
    run = client.create_run(client.create_experiment(f"{objects.namespace}/suspects")).info.run_id
    client.log_text(run, "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in SUSPECTS), "suspects.jsonl")
    address = base64.b64encode(shared_server.uri.encode()).decode()
    secret = {"metadata": {"name": "bloomery-storage"}, "data": {"MLFLOW_TRACKING_URI": address}}
    objects.create({"apiVersion": "v1", "kind": "Secret"} | secret)
    objects.create(training_job(), {"phase": "Complete", "mlflow": {"runId": run}})
    objects.create(dataset(exclude=["tulips/old.jpg"]))


@pytest.mark.usefixtures("job")
def test_suspects_are_listed_as_a_table_and_as_json(bloomery: Plugin) -> None:
    listed = bloomery("suspects", "flowers")
    document = bloomery("suspects", "flowers", "--first=1", "-o", "json")

    assert listed.returncode == 0, listed.stderr
    lines = [line.split() for line in listed.stdout.splitlines()]
    assert lines[0] == ["NO", "DATASET", "IMAGE", "CLASS", "SCORE", "LIKELY", "SCORE", "ACTION"]
    assert lines[2] == ["2", "flowers", "roses/cowboy.jpg", "roses", "0.11", "daisy", "0.4", "Exclude"]
    assert json.loads(document.stdout) == SUSPECTS[:1]


@pytest.mark.usefixtures("job")
def test_apply_shows_the_changes_and_makes_them_once(bloomery: Plugin, objects: Objects) -> None:
    applied = bloomery("suspects", "flowers", "--apply")
    again = bloomery("suspects", "flowers", "--apply")

    assert applied.returncode == 0, applied.stderr
    assert "image: roses/花 1.jpg" in applied.stderr
    spec = objects.get("dataset", "flowers")["spec"]
    assert spec["move"] == [{"image": "roses/花 1.jpg", "class": "tulips"}]
    assert spec["exclude"] == ["tulips/old.jpg", "roses/cowboy.jpg"]
    assert "Dataset flowers has these corrections already." in again.stderr


@pytest.mark.usefixtures("job")
def test_chosen_numbers_alone_are_applied(bloomery: Plugin, objects: Objects) -> None:
    applied = bloomery("suspects", "flowers", "--only=2", "--apply")
    unknown = bloomery("suspects", "flowers", "--only=3")

    assert applied.returncode == 0, applied.stderr
    spec = objects.get("dataset", "flowers")["spec"]
    assert "move" not in spec and spec["exclude"] == ["tulips/old.jpg", "roses/cowboy.jpg"]
    assert unknown.stderr == "error: --only names 3, and the suspects have the numbers 1 to 2.\n"


@pytest.mark.usefixtures("job")
def test_missing_file_and_dataset_are_named(bloomery: Plugin, objects: Objects) -> None:
    objects.create(training_job("early"))
    early = bloomery("suspects", "early")
    deleted = objects.server.kubectl("delete", "dataset", "flowers", "-n", objects.namespace)
    assert deleted.returncode == 0, deleted.stderr
    without_dataset = bloomery("suspects", "flowers", "--apply")

    assert early.stderr == "error: MLflow has no suspects.jsonl of early: it is made at the end of a training.\n"
    assert without_dataset.stderr == "error: There is no Dataset 'flowers' in this namespace; -n names another one.\n"
