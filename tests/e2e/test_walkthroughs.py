"""The walk-throughs of examples/: each page's commands as they stand, and what its user would look at."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from testing.cluster_store import list_files, read_file, remove_files
from testing.dev_cluster import eventually
from tests.e2e.walkthrough import (
    FLOWERS,
    MODEL_FILES,
    MakeNamespace,
    complete,
    labels,
    nothing_is_left,
    open_walkthrough,
    parameters,
    registered_version,
    tensorboard_tags,
)
from tools.docs_blocks import run_by

pytestmark = pytest.mark.extended


@pytest.mark.feature("D2")
@pytest.mark.feature("T2")
@pytest.mark.feature("S2")
def test_flowers_in_split_folders_become_a_service(make_namespace: MakeNamespace, tmp_path: Path) -> None:
    """The version has a label; the service names unseen flowers."""
    kubectl, output = make_namespace("walk-inception-v3"), "s3://bloomery/output/flowers-inception-v3"
    remove_files(output)
    with open_walkthrough("flowers-inception-v3", kubectl, tmp_path, run_by(__file__)) as (
        shell,
        (images, apply, ask, away),
    ):
        shell.run(images)
        table = shell.run(apply)
        job = kubectl.get("tj", "flowers-inception-v3")
        classes = kubectl.get("dset", "flowers-split")["status"]["classes"]
        pods = kubectl.get("pods", "", "--selector=bloomery.dev/inferenceservice=flowers-inception-v3")
        answers = shell.run(ask)
        files = list_files(output)
        shell.run(away)
    assert {c["name"]: (c["train"], c["validation"]) for c in classes} == dict.fromkeys(FLOWERS, (40, 10))
    assert (complete(job)["reason"], job["status"]["progress"]["steps"]) == ("Trained", "120/120")
    version = registered_version(job["status"]["model"])
    tags = {tag["key"]: tag["value"] for tag in version["tags"]}
    assert (tags["bloomery.dev/version-label"], tags["bloomery.dev/display-name"]) == ("1.0", "花卉分类")
    assert version["status"] == "READY"
    assert parameters(job)["batchSize"] == "20"
    (pod,) = pods
    (server,) = pod["spec"]["containers"]
    assert server["resources"] == {
        "requests": {"cpu": "250m", "memory": "512Mi"},
        "limits": {"cpu": "1", "memory": "2Gi"},
    }
    assert {"name": "DISPLAY_NAME", "value": "花卉识别"} in server["env"]
    assert "v1=100" in table
    assert labels(answers) == FLOWERS
    assert files >= MODEL_FILES
    eventually("nothing is left", lambda: nothing_is_left(kubectl), seconds=90)


@pytest.mark.feature("D2")
@pytest.mark.feature("T7")
@pytest.mark.feature("T8")
def test_flowers_with_text_files_are_trained_and_served(make_namespace: MakeNamespace, tmp_path: Path) -> None:
    """The training has a time limit and a TensorBoard."""
    kubectl, output = make_namespace("walk-resnet50"), "s3://bloomery/output/flowers-resnet50"
    remove_files(output)
    with open_walkthrough("flowers-resnet50", kubectl, tmp_path, run_by(__file__)) as (
        shell,
        (images, apply, ask, away),
    ):
        shell.run(images)
        shell.run(apply)
        job = kubectl.get("tj", "flowers-resnet50")
        curves = tensorboard_tags(kubectl, "flowers-resnet50")
        answers = shell.run(ask)
        predictions = list(csv.DictReader(io.StringIO(read_file(output, "predictions.csv").decode())))
        files = list_files(output)
        shell.run(away)
    assert complete(job)["reason"] == "TrainingTimeReached"
    assert "train/loss" in curves
    assert labels(answers) == FLOWERS
    assert files >= MODEL_FILES
    assert len(predictions) == 50
    eventually("nothing is left", lambda: nothing_is_left(kubectl), seconds=90)
