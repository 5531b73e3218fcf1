"""The command ``weights`` without nodes: its pod, and its errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from testing.waiting import eventually
from tests.component.plugin.conftest import TRAINER_IMAGE, Objects, Plugin


def weights_pods(objects: Objects) -> list[dict[str, Any]]:
    words = ("get", "pods", "-n", objects.namespace, "-l", "app.kubernetes.io/name=weights", "-o", "json")
    pods: list[dict[str, Any]] = json.loads(objects.server.kubectl(*words).stdout)["items"]
    return pods


@pytest.mark.feature("T19")
def test_pod_that_does_not_start_is_reported_and_deleted(
    bloomery: Plugin, objects: Objects, release: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.pt").write_bytes(b"weights")

    pushing = bloomery.start("weights", "push", "mine.pt", "--preset=resnet18", f"--release-namespace={release}")
    eventually(lambda: weights_pods(objects), "the pod that stores weights")
    (pod,) = weights_pods(objects)
    objects.report("pod", pod["metadata"]["name"], {"phase": "Failed", "message": "The node is full."})
    pushing.wait_for(f"The pod {pod['metadata']['name']} does not start: The node is full.")

    assert pushing.wait() == 1
    (container,) = pod["spec"]["containers"]
    assert (container["image"], container["imagePullPolicy"]) == (TRAINER_IMAGE, "Never")
    assert container["envFrom"] == [{"secretRef": {"name": "our-storage"}}]
    assert weights_pods(objects) == []


@pytest.mark.feature("O3")
def test_weights_pod_is_restricted(bloomery: Plugin, objects: Objects, release: str, tmp_path: Path) -> None:
    label = ("label", "namespace", objects.namespace, "pod-security.kubernetes.io/enforce=restricted")
    assert objects.server.kubectl(*label).returncode == 0

    listing = bloomery.start("weights", f"--release-namespace={release}")
    eventually(lambda: weights_pods(objects), "the pod that lists weights, admitted by Pod Security")
    (pod,) = weights_pods(objects)
    objects.report("pod", pod["metadata"]["name"], {"phase": "Failed", "message": "So it is."})

    assert listing.wait() == 1


@pytest.mark.feature("T19")
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("mine.onnx", b"x", "mine.onnx is no file of weights: its name must end in .pt, .pth, .safetensors."),
        ("mine.pt", b"", "mine.pt is empty."),
        ("my weights.pt", b"x", "'my weights.pt' cannot be stored: rename it"),
    ],
)
def test_file_without_weights_is_rejected_without_a_pod(
    bloomery: Plugin, objects: Objects, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    refused = bloomery("weights", "push", name, "--preset=resnet18")
    assert (refused.returncode, refused.stderr.startswith(f"error: {message}")) == (1, True), refused.stderr
    assert weights_pods(objects) == []


def test_wrong_arguments_of_push_are_named(bloomery: Plugin, objects: Objects, release: str, tmp_path: Path) -> None:
    for name in ("a.pt", "b.pt"):
        (tmp_path / name).write_bytes(b"weights")

    def error_of(*words: str) -> str:
        ended = bloomery("weights", "push", *words)
        assert ended.returncode == 1
        return ended.stderr

    assert error_of("gone.pt", "--preset=resnet18") == "error: gone.pt cannot be read: No such file or directory.\n"
    assert error_of("a.pt", "b.pt", "--preset=resnet18").startswith("error: --preset is for one file")
    nowhere = error_of("a.pt", "--preset=resnet18", f"--release-namespace={objects.namespace}")
    assert nowhere.startswith(f"error: There is no operator in {objects.namespace}; name the namespace of the chart")
    assert weights_pods(objects) == []
