"""On the real cluster: from the images and the chart of the release before to those of this checkout, under load."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.__main__ import build_images
from dev.images import Image
from dev.paths import ROOT, target
from testing.cluster_store import class_folders, digit_images, put_files
from testing.dev_cluster import Kubectl, eventually, gateway_address
from testing.load import Load
from tests.e2e.chart import CHART, development_values, helm, namespaced_values
from tests.e2e.test_install import RAW, children, git
from tests.e2e.test_serving import (
    assert_nothing_lost,
    change_weights,
    is_ready,
    key_of,
    pods_of,
    serve,
    status_of,
    variant,
)
from tests.e2e.test_training import ENDLESS, NAMES, RECIPE, completed, start, step

pytestmark = pytest.mark.extended

RELEASE_BEFORE = "22a74adaee0d013afd005fa817c96cf6f5074fa4"
"""The last commit of version 0.1."""
TAG = RELEASE_BEFORE[:7]
IMAGE_FOLDERS = {"operator": "operator", "trainer": "trainer-image", "serving": "serving-image"}
"""Each image of that release with its folder, which is its whole context."""
NAMESPACE = "e2e-upgrade"
OUTPUT = {"registeredModel": "e2e-upgrade"}
ROLLOUT = {"steps": [10, 50], "interval": "2m"}
"""Steps that take longer than an upgrade: the rollout begins before it and ends after it."""


@dataclass(frozen=True)
class Release:
    """A chart, the tag of its images, its kinds, and values that only this chart knows."""

    chart: Path
    tag: str
    kinds: Path
    values: dict[str, Any]

    def install(self, folder: Path) -> None:
        """Install the kinds and then the chart, or upgrade both, for one namespace of its own."""
        set_kinds(self.kinds)
        images = development_values()["images"] | {"tag": self.tag}
        file = namespaced_values(NAMESPACE, folder, {"images": images, **self.values})
        where = (f"--namespace={NAMESPACE}", "--wait", "--timeout=5m", f"--values={file}")
        helm("upgrade", "--install", "bloomery", self.chart, *where)


def set_kinds(folder: Path) -> None:
    """Replace the kinds' specs; an apply would keep the rules that only the other version has."""
    for path in sorted(folder.glob("*.yaml")):
        kind = yaml.safe_load(path.read_text(encoding="utf-8"))
        patch = [{"op": "replace", "path": "/spec", "value": kind["spec"]}]
        words = ("patch", "crd", kind["metadata"]["name"], "--type=json", "--patch-file=/dev/stdin")
        Kubectl(NAMESPACE)(*words, stdin=json.dumps(patch))


@pytest.fixture(scope="module")
def before(system: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> Release:
    """Give the release before, with its images built in the cluster's store."""
    known = subprocess.run(["git", "cat-file", "-e", f"{RELEASE_BEFORE}^{{commit}}"], cwd=ROOT, capture_output=True)
    if known.returncode:
        pytest.skip(f"this clone lacks the commit {TAG} of the release before: git fetch --unshallow")
    if not target().is_own:
        pytest.skip("the images of the release before are built only for the cluster of dev/")
    folder = tmp_path_factory.mktemp("before")
    tree = folder / "tree.tar"
    git("archive", f"--output={tree}", RELEASE_BEFORE, "charts", "crds", *IMAGE_FOLDERS.values())
    subprocess.run(["tar", "--extract", f"--file={tree}", f"--directory={folder}"], check=True)
    build_images([Image(name, folder / context, tag=TAG) for name, context in IMAGE_FOLDERS.items()])
    return Release(folder / "charts" / "bloomery", TAG, folder / "crds", {})


@pytest.fixture
def kubectl(
    before: Release, without_operator: None, make_namespace: Callable[[str], Kubectl], tmp_path: Path
) -> Iterator[Kubectl]:
    """Give a namespace in which the operator of the release before works, and no other."""
    kubectl = make_namespace(NAMESPACE)
    try:
        before.install(tmp_path)
        yield kubectl
    finally:
        set_kinds(ROOT / "crds")
        kubectl.run("delete", "isvc,tj,dataset", "--all", check=False)
        helm("uninstall", "bloomery", f"--namespace={NAMESPACE}", "--ignore-not-found")


def train_and_serve(kubectl: Kubectl) -> dict[str, Any]:
    """Prepare a Dataset, train a model, serve it in two variants; return the status of the training."""
    put_files(RAW, class_folders(digit_images(NAMES, each=60)))
    dataset = {"apiVersion": "bloomery.dev/v1alpha1", "kind": "Dataset", "metadata": {"name": "digits"}}
    assert kubectl.apply(dataset | {"spec": {"source": {"uri": RAW}}}).returncode == 0
    kubectl.wait("dataset/digits", "Ready", seconds=180)
    start(kubectl, "done", RECIPE | {"maxSteps": 20}, output=OUTPUT)
    _, status = completed(kubectl, "done")
    model = status["model"]["uri"]
    serve(kubectl, "shop", [variant("v1", 100, model), variant("v2", 0, model)], rollout=ROLLOUT)
    kubectl.wait("isvc/shop", "Ready", seconds=180)
    return status


def results(kubectl: Kubectl) -> list[Any]:
    """Return the versions of the Dataset, and the model and the end of the finished training."""
    dataset, job = kubectl.get("dataset", "digits")["status"], kubectl.get("tj", "done")["status"]
    versions = [entry["version"] for entry in dataset["versions"]]
    return [dataset["version"], versions, job["phase"], job["model"], job["completionTime"]]


def serve_with(kubectl: Kubectl, tag: str) -> bool:
    """Whether the two model servers are ready with the image of a release, and no others are left."""
    pods = [pod for name in ("v1", "v2") for pod in pods_of(kubectl, "shop", name)]
    images = [pod["spec"]["containers"][0]["image"] for pod in pods]
    return len(pods) == 2 and all(map(is_ready, pods)) and all(image.endswith(f":{tag}") for image in images)


def percent_moved(kubectl: Kubectl) -> int:
    """Return the percentage that a rollout has moved; 0 without a rollout."""
    return int(status_of(kubectl, "shop").get("rollout", {}).get("percent", 0))


@pytest.mark.feature("O1", "O4")
def test_an_upgrade_repeats_no_work_and_loses_no_request(kubectl: Kubectl, system: Kubectl, tmp_path: Path) -> None:
    """It starts from the release before."""
    first = train_and_serve(kubectl)
    start(kubectl, "long", ENDLESS, output=OUTPUT)
    image = digit_images({"null": 0}, each=1)["null"][0]
    url = f"{gateway_address(system)}/{NAMESPACE}/shop/predict"
    load = Load(kubectl, "load-upgrade").start(url, key=key_of(kubectl, "shop"), image=image, rate=30, count=100_000)
    reached = step(kubectl, "long", 10)
    change_weights(kubectl, "shop", 0, 100)
    eventually("the rollout is under way", lambda: percent_moved(kubectl) == 10, seconds=60)
    made, finished, rollout = children(kubectl), results(kubectl), status_of(kubectl, "shop")["rollout"]
    assert serve_with(kubectl, TAG)

    Release(CHART, "dev", ROOT / "crds", {"training": {"downloadWeights": False}}).install(tmp_path)
    later = step(kubectl, "long", reached + 20)
    assert status_of(kubectl, "shop")["rollout"]["to"] == rollout["to"]
    eventually("the rollout has ended", lambda: "rollout" not in status_of(kubectl, "shop"), seconds=300, interval=2)
    assert made.items() <= children(kubectl).items()
    # The pods of services stay as they are until this annotation changes.
    kubectl("annotate", "isvc/shop", "bloomery.dev/refresh=0.2.0")
    eventually("the model servers are of the new release", lambda: serve_with(kubectl, "dev"), seconds=180, interval=2)
    kubectl("patch", "tj/long", "--type=merge", '--patch={"spec": {"stop": true}}')
    reason, status = completed(kubectl, "long")
    outcome = load.stop()

    assert_nothing_lost(outcome)
    assert set(outcome.by_variant()) == {"v1", "v2"}
    assert status_of(kubectl, "shop")["traffic"] == "v1=0 v2=100"
    assert results(kubectl) == finished
    assert (reason, status.get("restarts", 0), status.get("preemptions", 0)) == ("Stopped", 0, 0)
    assert status["lastCheckpoint"]["step"] >= later
    # The registry counts: nothing was registered between the two.
    assert int(status["model"]["version"]) == int(first["model"]["version"]) + 1
    log = kubectl("logs", "deployment/bloomery-operator")
    assert "Traceback" not in log and "forbidden" not in log.lower(), log[-4000:]
