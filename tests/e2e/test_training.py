"""Training in real pods: interrupted, stopped, suspended, on two nodes, from earlier models, in TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from dev import demo
from dev.paths import LOGS
from testing.cluster_store import class_folders, digit_images, list_files, put_files, read_file
from testing.dev_cluster import Kubectl, eventually

pytestmark = pytest.mark.extended

RAW = "s3://bloomery/raw/e2e-training"
NAMES = {"null": 0, "eins": 1, "美食/凉皮": 2}
SMALL = {"requests": {"cpu": "500m", "memory": "600Mi"}, "limits": {"cpu": "1", "memory": "2Gi"}}
RECIPE = {
    "batchSize": 16,
    "imageSize": 32,
    "augmentation": "Light",
    "horizontalFlip": False,
    "learningRate": 0.02,
    "maxSteps": 60,
}
ENDLESS = RECIPE | {"maxSteps": 100_000}


@pytest.fixture(scope="module")
def kubectl(make_namespace: Callable[[str], Kubectl]) -> Kubectl:
    kubectl = make_namespace("e2e-training")
    put_files(RAW, class_folders(digit_images(NAMES, each=60)))
    manifest = {
        "apiVersion": "bloomery.dev/v1alpha1",
        "kind": "Dataset",
        "metadata": {"name": "digits"},
        "spec": {"source": {"uri": RAW}, "split": {"validation": 0.3, "test": 0.1}},
    }
    done = kubectl.apply(manifest)
    assert done.returncode == 0, done.stderr
    kubectl.wait("dataset/digits", "Ready", seconds=120)
    return kubectl


def start(kubectl: Kubectl, name: str, hyperparameters: dict[str, Any] | None = None, **spec: Any) -> None:
    manifest = {
        "apiVersion": "bloomery.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": name},
        "spec": {
            "datasets": [{"name": "digits"}],
            "preset": "resnet18",
            "hyperparameters": hyperparameters or RECIPE,
            "resources": SMALL,
            "checkpoint": {"every": "10steps"},
            "output": {"registeredModel": "e2e-digits"},
            **spec,
        },
    }
    done = kubectl.apply(manifest)
    assert done.returncode == 0, done.stderr


def status_of(kubectl: Kubectl, name: str) -> dict[str, Any]:
    status: dict[str, Any] = kubectl.get("tj", name).get("status", {})
    return status


def completed(kubectl: Kubectl, name: str, *, seconds: int = 240) -> tuple[str, dict[str, Any]]:
    """The reason and the status of a job that ended well."""
    kubectl.wait(f"tj/{name}", "Complete", seconds=seconds)
    status = status_of(kubectl, name)
    return next(c["reason"] for c in status["conditions"] if c["type"] == "Complete"), status


def label(kubectl: Kubectl) -> str:
    """A version label of this run alone: MLflow still knows the versions of earlier ones."""
    return f"1.0 of {kubectl.get('dataset', 'digits')['metadata']['uid'][:8]}"


def step(kubectl: Kubectl, name: str, at_least: int) -> int:
    """Waits until the training has come so far."""

    def reached() -> int:
        now = int(status_of(kubectl, name).get("progress", {}).get("step", 0))
        return now if now >= at_least else 0

    return int(eventually(f"{name} is at step {at_least}", reached, seconds=120))


@pytest.mark.feature("T9")
@pytest.mark.feature("T15")
@pytest.mark.feature("D13")
def test_a_training_fills_its_output_folder_and_moves_the_alias(kubectl: Kubectl) -> None:
    """The folder gets model, report, predictions and log."""
    out = f"s3://bloomery/e2e-out/{kubectl.get('dataset', 'digits')['metadata']['uid']}"
    promote = {"alias": "champion", "atLeast": 0.3, "betterThanCurrent": False}
    output = {"uri": out, "registeredModel": "e2e-digits", "versionLabel": label(kubectl), "promote": promote}
    start(kubectl, "base", output=output)
    reason, status = completed(kubectl, "base")

    assert reason == "Trained"
    assert status["model"]["uri"] == f"{out}/model"
    expected = {
        "model/model.onnx",
        "model/labels.txt",
        "predictions.csv",
        "report.html",
        "evaluation.json",
        "train.log",
    }
    files = list_files(out)
    assert expected <= files
    assert any(path.startswith("tensorboard/") for path in files)
    assert read_file(out, "model/labels.txt").decode().splitlines() == sorted(NAMES)
    assert "champion" in status["conditions"][0]["message"]
    assert json.loads(read_file(out, "evaluation.json"))["split"] == "test"


@pytest.mark.feature("T12")
def test_two_pods_train_the_model_of_one_on_equal_batches(kubectl: Kubectl) -> None:
    start(kubectl, "two-pods", nodes=2)
    reason, status = completed(kubectl, "two-pods", seconds=300)

    assert reason == "Trained"
    alone = status_of(kubectl, "base")["metrics"]["top1"]
    assert status["metrics"]["top1"] == pytest.approx(alone, abs=0.2)
    pods = kubectl.get("pods", "", "--selector=batch.kubernetes.io/job-name=two-pods-train")
    assert sorted(pod["spec"]["hostname"] for pod in pods) == ["two-pods-train-0", "two-pods-train-1"]


@pytest.mark.feature("T13")
def test_an_evicted_pod_is_replaced_and_counts_as_no_failure(kubectl: Kubectl) -> None:
    start(kubectl, "evicted", RECIPE | {"maxSteps": 250}, backoffLimit=0)
    step(kubectl, "evicted", 20)
    (pod,) = kubectl.get("pods", "", "--selector=batch.kubernetes.io/job-name=evicted-train")
    name = pod["metadata"]["name"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    path = f"/api/v1/namespaces/{kubectl.namespace}/pods/{name}/eviction"
    kubectl("create", "--raw", path, "--filename=-", stdin=json.dumps(eviction))
    reason, status = completed(kubectl, "evicted")

    assert (reason, status.get("restarts", 0), status["preemptions"]) == ("Trained", 0, 1)
    attempts = json.loads(read_file(status["model"]["uri"].removesuffix("/model"), "attempts.json"))
    assert attempts[1]["step"] >= 20


@pytest.mark.feature("T14")
@pytest.mark.feature("T6")
def test_a_suspended_job_has_no_pods_and_continues_later(kubectl: Kubectl) -> None:
    start(kubectl, "suspended", RECIPE | {"maxSteps": 250})
    before = step(kubectl, "suspended", 20)
    kubectl("patch", "tj/suspended", "--type=merge", '--patch={"spec": {"suspend": true}}')
    kubectl.wait("tj/suspended", "Suspended", seconds=60)
    selector = "--selector=batch.kubernetes.io/job-name=suspended-train"
    eventually("its pods are gone", lambda: not kubectl.get("pods", "", selector), seconds=60)
    assert "Suspended" in kubectl("get", "tj", "suspended")
    kubectl("patch", "tj/suspended", "--type=merge", '--patch={"spec": {"suspend": false}}')
    reason, status = completed(kubectl, "suspended")

    assert (reason, status["lastCheckpoint"]["step"]) == ("Trained", 250)
    attempts = json.loads(read_file(status["model"]["uri"].removesuffix("/model"), "attempts.json"))
    assert attempts[1]["step"] >= before


@pytest.mark.feature("T8")
def test_a_stopped_job_is_complete_with_the_best_model_so_far(kubectl: Kubectl) -> None:
    start(kubectl, "stopped", ENDLESS)
    step(kubectl, "stopped", 15)
    kubectl("patch", "tj/stopped", "--type=merge", '--patch={"spec": {"stop": true}}')
    reason, status = completed(kubectl, "stopped")

    assert reason == "Stopped"
    assert status["model"]["version"]


@pytest.mark.feature("T8")
def test_the_training_time_is_capped(kubectl: Kubectl) -> None:
    start(kubectl, "capped", ENDLESS, maxTrainingTime="10s")
    reason, status = completed(kubectl, "capped")

    assert reason == "TrainingTimeReached"
    assert status["model"]["version"]


@pytest.mark.feature("T3")
@pytest.mark.feature("T2")
@pytest.mark.feature("D12")
def test_a_head_is_trained_on_the_registrys_champion_for_fewer_classes(kubectl: Kubectl) -> None:
    start(
        kubectl,
        "tuned",
        {key: value for key, value in RECIPE.items() if key not in ("maxSteps", "learningRate")}
        | {"trainable": "Head", "learningRateSchedule": "2:0.05,3:0.005"},
        datasets=[{"name": "digits", "classes": ["eins", "美食/凉皮"]}],
        initialModel={"mlflow": f"models:/{kubectl.namespace}.e2e-digits@champion"},
        output={"registeredModel": "e2e-two"},
    )
    reason, status = completed(kubectl, "tuned")

    assert reason == "Trained"
    assert status["initialModel"].startswith(f"{kubectl.namespace}.e2e-digits/")
    assert read_file(status["model"]["uri"], "labels.txt").decode().splitlines() == ["eins", "美食/凉皮"]


@pytest.mark.feature("T18")
def test_a_registered_version_is_evaluated_by_its_label_without_training(kubectl: Kubectl) -> None:
    version = f"models:/{kubectl.namespace}.e2e-digits/{label(kubectl)}"
    start(kubectl, "judged", evaluateOnly=True, initialModel={"mlflow": version})
    reason, status = completed(kubectl, "judged")

    assert reason == "Evaluated"
    assert status["metrics"]["top1"] == pytest.approx(status_of(kubectl, "base")["metrics"]["top1"])


@pytest.mark.feature("T7")
def test_tensorboard_shows_the_curves_after_the_end(kubectl: Kubectl) -> None:
    kubectl("patch", "tj/base", "--type=merge", '--patch={"spec": {"tensorboard": true}}')
    eventually("its address", lambda: status_of(kubectl, "base").get("tensorboardURL"), seconds=30)
    kubectl("rollout", "status", "deployment/base-tensorboard", "--timeout=90s")
    address = f"http://base-tensorboard.{kubectl.namespace}.svc.cluster.local:6006"
    with (LOGS / "e2e-tensorboard.log").open("a") as log, demo.reachable(address, log) as board:

        def tags() -> Any:
            answer = httpx.get(f"{board}/data/plugin/scalars/tags", timeout=10).json()
            return any("train/loss" in run for run in answer.values())

        eventually("the curves", tags, seconds=60)
    kubectl("patch", "tj/base", "--type=merge", '--patch={"spec": {"tensorboard": false}}')
    eventually(
        "it is gone",
        lambda: kubectl.run("get", "deployment", "base-tensorboard", check=False).returncode != 0,
        seconds=30,
    )


def test_a_users_mistake_ends_the_job_and_is_named(kubectl: Kubectl) -> None:
    start(kubectl, "wrong", datasets=[{"name": "digits", "classes": ["zwei", "null"]}])
    kubectl.wait("tj/wrong", "Failed", seconds=90)
    status = status_of(kubectl, "wrong")

    assert (status["conditions"][0]["reason"], status["restarts"]) == ("ClassNotFound", 1)
    assert "dataset digits has no class 'zwei'" in status["conditions"][0]["message"]
