"""Weights that are pushed to the store on the real cluster, and a training without a way out that starts from them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from dev.paths import target
from testing.cluster_store import class_folders, digit_images, list_files, put_files, remove_files
from testing.dev_cluster import SYSTEM, Kubectl
from tests.e2e.servers import create
from tests.e2e.shell import PLUGIN
from tests.e2e.test_training import NAMES, completed, start

pytestmark = [pytest.mark.extended, pytest.mark.feature("T19")]

PRESET = "mobilenet-v2"
RAW = "s3://bloomery/raw/e2e-weights"
STORED = f"s3://bloomery/weights/{PRESET}"
RECIPE = {"batchSize": 16, "imageSize": 32, "augmentation": "Light", "horizontalFlip": False, "maxSteps": 5}
NO_WAY_OUT = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "no-way-out"},
    "spec": {
        "podSelector": {},
        "policyTypes": ["Egress"],
        "egress": [
            {"to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}]}
            for name in (SYSTEM, "kube-system")
        ],
    },
}
"""Only the store, MLflow and the DNS of the cluster can be reached."""


def bloomery(*words: str) -> str:
    """Run the plugin; return its output."""
    done = subprocess.run([*PLUGIN, *words], env=target().environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def presets() -> dict[str, dict[str, Any]]:
    """Return what trainings of each preset start from."""
    items = json.loads(bloomery("weights", "--output=json"))
    return {item["preset"]: item for item in items}


@pytest.fixture
def weights_file(tmp_path: Path) -> Iterator[Path]:
    """Give a file with the names of published weights: no head, and no counts of batches, which older files lack."""
    network = torchvision.models.mobilenet_v2(num_classes=1)
    names = [name for name in network.state_dict() if name.startswith("features.")]
    tensors = {n: network.state_dict()[n] for n in names if not n.endswith("num_batches_tracked")}
    path = tmp_path / "backbone.pt"
    torch.save(tensors, path)
    remove_files(STORED)  # of a run that was killed
    yield path
    remove_files(STORED)


@pytest.fixture
def kubectl(make_namespace: Callable[[str], Kubectl]) -> Kubectl:
    kubectl = make_namespace("e2e-weights")
    create(kubectl, NO_WAY_OUT)
    put_files(RAW, class_folders(digit_images(NAMES, each=60)))
    dataset = {"apiVersion": "bloomery.dev/v1alpha1", "kind": "Dataset", "metadata": {"name": "digits"}}
    create(kubectl, dataset | {"spec": {"source": {"uri": RAW}}})
    kubectl.wait("dataset/digits", "Ready", seconds=180)
    return kubectl


def test_a_training_without_a_way_out_starts_from_pushed_weights(kubectl: Kubectl, weights_file: Path) -> None:
    before = presets()[PRESET]
    assert (before["startsFrom"], before["pushed"]) == ("scratch", None)

    pushed = bloomery("weights", "push", str(weights_file), f"--preset={PRESET}")
    assert f"{STORED}/{weights_file.name}" in pushed
    assert weights_file.name in list_files(STORED)
    after = presets()[PRESET]
    assert (after["startsFrom"], after["pushed"]["file"]) == ("pushed", weights_file.name)

    start(kubectl, "from-pushed", RECIPE, preset=PRESET, output={"registeredModel": "e2e-weights"})
    reason, status = completed(kubectl, "from-pushed", seconds=300)
    assert reason == "Trained"
    assert f"the pushed weights {weights_file.name} of {PRESET}" in status["initialModel"]
