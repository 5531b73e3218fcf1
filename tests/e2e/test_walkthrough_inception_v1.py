"""The walk-through of examples/flowers-inception-v1: a checkpoint, flowers fine-tuned from it, and the same on GPUs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dev.paths import ROOT
from testing.cluster_store import list_files, read_file, remove_files
from testing.dev_cluster import eventually
from tests.e2e.walkthrough import (
    FLOWERS,
    MODEL_FILES,
    MakeNamespace,
    complete,
    nothing_is_left,
    open_walkthrough,
    parameters,
)
from tools.docs_blocks import run_by

pytestmark = pytest.mark.extended

NAME = "flowers-inception-v1"


@pytest.mark.feature("D2")
@pytest.mark.feature("D9")
@pytest.mark.feature("T3")
@pytest.mark.feature("T11")
@pytest.mark.feature("O5")
def test_flowers_are_fine_tuned_from_a_checkpoint_in_one_apply(make_namespace: MakeNamespace, tmp_path: Path) -> None:
    """The images are split 8 to 2; the command follows the job to its end."""
    kubectl, output = make_namespace("walk-inception-v1"), f"s3://bloomery/output/{NAME}"
    remove_files(output)
    with open_walkthrough(NAME, kubectl, tmp_path, run_by(__file__)) as (shell, (images, apply, look, ask, away)):
        shell.run(images)
        followed = shell.run(apply)
        base, job = kubectl.get("tj", "inception-v1-dishes"), kubectl.get("tj", NAME)
        shards = shard_sizes(kubectl.get("dset", "flowers-folders"))
        seen = shell.run(look)
        answers = shell.run(ask)
        files, log = list_files(output), read_file(output, "train.log").decode()
        shell.run(away)
    assert "TrainingJob 'inception-v1-dishes', to start from, is not complete yet" in followed
    assert "Complete: Trained: " in followed
    assert seen.splitlines() == [*(f"{name} 240 60" for name in FLOWERS), *FLOWERS]
    assert shards == {"train": [1000, 200], "validation": [300]}
    assert (complete(job)["reason"], job["status"]["progress"]["steps"]) == ("Trained", "90/90")
    checkpoint = f"TrainingJob inception-v1-dishes ({base['status']['model']['display']})"
    assert job["status"]["initialModel"] == checkpoint
    assert f"Training starts from {checkpoint}" in log
    expected = {
        "preset": "googlenet",
        "optimizer": "sgd",
        "learningRate": "0.0025",
        "batchSize": "16",
        "maxSteps": "90",
    }
    assert parameters(job).items() >= (expected | {"initialModel": checkpoint}).items()
    assert [line.split()[1] for line in answers.splitlines() if line.startswith("unseen/")] == FLOWERS
    assert files >= MODEL_FILES
    eventually("nothing is left", lambda: nothing_is_left(kubectl), seconds=90)


@pytest.mark.feature("T5")
def test_the_api_server_accepts_the_line_for_gpus(make_namespace: MakeNamespace) -> None:
    kubectl = make_namespace("walk-inception-v1-gpu")
    manifests = kubectl("kustomize", str(ROOT / "examples" / NAME / "gpu"))
    words = ("apply", "--server-side", "--dry-run=server", "--output=json", "--filename=-")
    accepted = json.loads(kubectl(*words, stdin=manifests))["items"]
    jobs = {item["metadata"]["name"]: item["spec"] for item in accepted if item["kind"] == "TrainingJob"}
    assert sorted(item["kind"] for item in accepted) == ["Dataset"] * 2 + ["InferenceService"] + ["TrainingJob"] * 2
    assert [jobs[name]["resources"]["limits"]["nvidia.com/gpu"] for name in (NAME, "inception-v1-dishes")] == [2, 2]
    tuned = jobs[NAME]["hyperparameters"]
    assert (tuned["maxSteps"], tuned["learningRate"], tuned["optimizer"]) == (6000, 0.0025, "sgd")
    assert "imageSize" not in tuned


def shard_sizes(dataset: dict[str, Any]) -> dict[str, list[int]]:
    """The images in each shard of a Dataset's newest version."""
    manifest = json.loads(read_file(dataset["status"]["uri"], "manifest.json"))
    return {split: [shard["images"] for shard in shards] for split, shards in manifest["shards"].items()}
