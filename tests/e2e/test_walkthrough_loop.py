"""The walk-through examples/loop: its page's commands as they stand, and what its user would look at."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from testing.cluster_store import list_files, read_file, remove_files
from testing.dev_cluster import Kubectl, eventually, read_metrics
from tests.e2e.walkthrough import (
    FLOWERS,
    MakeNamespace,
    complete,
    nothing_is_left,
    open_walkthrough,
    registered_version,
    remove_registered_model,
)
from tools.docs_blocks import run_by

pytestmark = pytest.mark.extended

NAMESPACE = "walk-loop"
MODEL = f"{NAMESPACE}.flowers-loop"
ARCHIVE = "s3://bloomery/predictions/flowers-archive"
WEAK = "dandelion"
"""The class that has four training images."""
LABELLED = 20
PRODUCTION = 100


@pytest.mark.feature("S19", "S20", "S21", "S22", "S23", "D18")
def test_twenty_labels_teach_the_class_that_production_showed_to_be_weak(
    make_namespace: MakeNamespace, tmp_path: Path
) -> None:
    """The better model is rolled out by itself, and a bad one is not."""
    kubectl = make_namespace(NAMESPACE)
    # The registry and the store outlive the namespace: a champion of an earlier run would already know the class.
    remove_registered_model(MODEL)
    for uri in ("s3://bloomery/raw/flowers-loop", f"s3://bloomery/captures/{NAMESPACE}", ARCHIVE):
        remove_files(uri)
    with open_walkthrough("loop", kubectl, tmp_path, run_by(__file__)) as (shell, commands):
        images, train, serve, production, label, again, rollout, careless, restore, archive, away = commands
        for block in (images, train, serve, production):
            shell.run(block)
        first = trainings(kubectl)[0]
        shell.run(label)
        assert_the_captures_are_labelled(kubectl, tmp_path)
        shown = shell.run(again)
        second = trainings(kubectl)[0]
        assert_the_class_is_learned(kubectl, first, second, shown)
        passed = shell.run(rollout)
        assert_it_serves(kubectl, second, passed)
        stopped = shell.run(careless)
        print(passed + stopped)
        assert "have another class than what is replaced gives them; 50.0% is allowed." in stopped
        assert labels_of(stopped) == [WEAK] * 3
        shell.run(restore)
        assert_it_serves(kubectl, second, passed)
        assert_the_archive_is_sorted(kubectl, shell.run(archive))
        shell.run(away)
    eventually("nothing is left", lambda: nothing_is_left(kubectl), seconds=90)


def trainings(kubectl: Kubectl) -> list[str]:
    """The TrainingJobs of the Retraining, the newest first."""
    return [entry["name"] for entry in kubectl.get("retraining", "flowers-loop")["status"]["history"]]


def assert_the_captures_are_labelled(kubectl: Kubectl, folder: Path) -> None:
    """Require that the twenty are mostly of the weak class, and that the live accuracy is that of their answers."""
    captured = json.loads((folder / "captured.json").read_text())
    labels = dict(line.split(",") for line in (folder / "labels.csv").read_text().splitlines())
    page = (folder / "captured.html").read_text()
    assert captured["captures"] == PRODUCTION
    assert Counter(labels.values()).most_common(1)[0][0] == WEAK
    assert (len(labels), page.count("<img")) == (LABELLED, LABELLED)
    right = sum(entry["predicted"] == labels[entry["id"]] for entry in captured["leastCertain"])
    assert live_accuracy(kubectl) == (right, LABELLED)
    print(f"{right} of the labelled images were answered with their class: {Counter(labels.values())}")


def live_accuracy(kubectl: Kubectl) -> tuple[float, ...]:
    """Return how many labelled images the only pod counts as answered with their class, and how many in all."""
    (pod,) = kubectl.get("pods", "", "--selector=bloomery.dev/inferenceservice=flowers-loop,bloomery.dev/variant=v1")
    text = read_metrics(kubectl, pod["metadata"]["name"])
    names = ("bloomery_live_correct_total", "bloomery_live_labelled_total")
    values = dict(re.findall(r'^(bloomery_live_\w+_total){.*variant="v1".*} (\S+)$', text, re.MULTILINE))
    return tuple(float(values.get(name, 0)) for name in names)


def assert_the_class_is_learned(kubectl: Kubectl, first: str, second: str, shown: str) -> None:
    """Require that the recall of the weak class rose, on the same images, and that the better model is the champion."""
    before, after = (kubectl.get("tj", name) for name in (first, second))
    recall = [recall_of(job, WEAK) for job in (before, after)]
    print(f"recall of {WEAK}: {recall[0]:.2f} before, {recall[1]:.2f} after; {message_of(after)}")
    assert recall[1] >= recall[0] + 0.3
    assert min(recall_of(after, name) for name in FLOWERS) >= 0.8
    dataset = kubectl.get("dset", "flowers-loop")["status"]
    counts = {version["ordinal"]: version["images"] for version in dataset["versions"]}
    assert (counts[2] - counts[1], dataset["ignored"]) == (LABELLED, {"NoLabel": PRODUCTION - LABELLED})
    assert after["status"]["model"]["version"] == "2"
    assert registered_version(after["status"]["model"])["status"] == "READY"
    assert message_of(after) in shown
    eventually(
        "the champion is version 2",
        lambda: kubectl.get("retraining", "flowers-loop")["status"].get("champion") == f"{MODEL}/2",
        seconds=60,
    )


def recall_of(job: dict[str, Any], name: str) -> float:
    """The recall of a class on the test images, as the report has it."""
    document = json.loads(read_file(job["status"]["model"]["uri"].removesuffix("/model"), "evaluation.json"))
    assert document["split"] == "test"
    entry = next(entry for entry in document["classes"] if entry["name"] == name)
    assert entry["images"] == 20
    return float(entry["recall"])


def message_of(job: dict[str, Any]) -> str:
    return str(complete(job)["message"])


def assert_it_serves(kubectl: Kubectl, training: str, output: str) -> None:
    (variant,) = kubectl.get("isvc", "flowers-loop")["status"]["variants"]
    assert (variant["model"], variant["trainingJob"], variant["weight"]) == (f"{MODEL}/2", training, 100)
    assert labels_of(output) == [WEAK] * 3


def labels_of(output: str) -> list[str]:
    """Of each image that `predict` shows, the likeliest class."""
    return re.findall(r"^production/\w+/\d\.jpg +(\w+) ", output, re.MULTILINE)


def assert_the_archive_is_sorted(kubectl: Kubectl, output: str) -> None:
    prediction = kubectl.get("bp", "flowers-archive")
    folders = Counter(path.split("/")[1] for path in list_files(ARCHIVE) if path.startswith("folders/"))
    assert complete(prediction)["reason"] == "Predicted"
    assert prediction["status"]["model"]["display"] == f"{MODEL}/2"
    assert prediction["status"]["images"] == folders.total() == PRODUCTION
    assert folders[WEAK] >= 15
    assert f"model: {MODEL}/2" in output
