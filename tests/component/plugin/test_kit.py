"""The command ``kit`` without nodes: its pod, and its errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from testing.waiting import eventually
from tests.component.plugin.conftest import Objects, Plugin

IMAGE = "registry.example.com/bloomery/kit:1"


def make_service(objects: Objects, *variants: str) -> None:
    chosen = [
        {"name": name, "weight": 100 if name == variants[0] else 0, "model": {"uri": "s3://models/colours"}}
        for name in variants
    ]
    manifest = {"apiVersion": "bloomery.dev/v1alpha1", "kind": "InferenceService", "metadata": {"name": "colours"}}
    objects.create(manifest | {"spec": {"variants": chosen}})


def make_deployment(objects: Objects, variant: str, annotations: dict[str, str]) -> None:
    labels = {"bloomery.dev/inferenceservice": "colours", "bloomery.dev/variant": variant}
    secret = {"secretRef": {"name": "bloomery-storage"}}
    container = {"name": "server", "image": "serving", "envFrom": [secret]}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    metadata = {"name": f"colours--{variant}-1", "labels": labels, "annotations": annotations}
    spec = {"replicas": 0, "selector": {"matchLabels": labels}, "template": template}
    objects.create({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec})


def kit_pods(objects: Objects) -> list[dict[str, Any]]:
    words = ("get", "pods", "-n", objects.namespace, "-l", "app.kubernetes.io/name=kit", "-o", "json")
    pods: list[dict[str, Any]] = json.loads(objects.server.kubectl(*words).stdout)["items"]
    return pods


@pytest.mark.feature("O5")
def test_pod_that_does_not_start_is_reported_and_deleted(bloomery: Plugin, objects: Objects, tmp_path: Path) -> None:
    make_service(objects, "v1", "v2")
    make_deployment(objects, "v2", {"bloomery.dev/kit-image": IMAGE})

    fetching = bloomery.start("kit", "colours", "--variant=v2")
    eventually(lambda: kit_pods(objects), "the pod that packs")
    (pod,) = kit_pods(objects)
    objects.report("pod", pod["metadata"]["name"], {"phase": "Failed", "message": "The node is full."})
    fetching.wait_for(f"The pod {pod['metadata']['name']} does not start: The node is full.")

    assert fetching.wait() == 1
    (container,) = pod["spec"]["containers"]
    assert container["image"] == IMAGE
    assert container["envFrom"] == [{"secretRef": {"name": "bloomery-storage"}}]
    assert kit_pods(objects) == []
    assert list(tmp_path.glob("*.zip*")) == []


@pytest.mark.feature("O5")
def test_wrong_options_are_named(bloomery: Plugin, objects: Objects) -> None:
    make_service(objects, "v1", "v2")
    make_deployment(objects, "v1", {})

    def error_of(*words: str) -> str:
        ended = bloomery("kit", "colours", *words)
        assert ended.returncode == 1
        return ended.stderr

    assert error_of() == "error: colours has the variants v1, v2: choose one by --variant.\n"
    assert error_of("--variant=v2").startswith("error: The variant v2 of colours has no model yet: ")
    assert "give one with --image" in error_of("--variant=v1")
    nowhere = error_of("--variant=v1", f"--image={IMAGE}", "-o", "nowhere/kit.zip")
    assert nowhere == "error: nowhere/kit.zip cannot be written: No such file or directory.\n"
    assert kit_pods(objects) == []
