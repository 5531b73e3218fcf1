"""The command ``live``."""

from __future__ import annotations

import json

import pytest

from testing.samples import training_job
from tests.component.plugin.conftest import Objects, Plugin


@pytest.mark.feature("O5")
def test_running_pods_and_waiting_jobs_are_listed(bloomery: Plugin, objects: Objects) -> None:
    before = bloomery("live")
    objects.create(training_job())
    labels = {
        "app.kubernetes.io/managed-by": "bloomery",
        "app.kubernetes.io/name": "serve",
        "bloomery.dev/inferenceservice": "colours",
    }
    container = {"name": "server", "image": "example", "resources": {"limits": {"nvidia.com/gpu": "2"}}}
    metadata = {"name": "colours-1", "labels": labels}
    spec = {"containers": [container], "automountServiceAccountToken": False}
    objects.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}, {"phase": "Running"})

    table = bloomery("live")
    programs = bloomery("live", "-o", "json")
    everywhere = bloomery("live", "-A")

    assert (before.returncode, before.stdout) == (0, "Nothing of Bloomery runs or takes room in this namespace.\n")
    rows = [line.split() for line in table.stdout.splitlines()]
    assert rows[0] == ["KIND", "NAME", "DOES", "PODS", "GPUS", "STORAGE", "SINCE"]
    assert rows[1][:5] == ["InferenceService", "colours", "serves", "1", "2"]
    assert rows[2][:3] == ["TrainingJob", "flowers", "waits"]
    assert [(item["name"], item["gpus"]) for item in json.loads(programs.stdout)] == [("colours", 2), ("flowers", 0)]
    assert f"{objects.namespace} " in everywhere.stdout and everywhere.returncode == 0
