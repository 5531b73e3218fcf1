"""A batch prediction in real pods: one is killed at work, and no image is lost, doubled or answered otherwise."""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import obstore
import pytest
from obstore.store import S3Store

from dev.paths import target
from testing.cluster_store import class_folders, digit_images, put_files, remove_files, store
from testing.dev_cluster import Kubectl, eventually
from tests.e2e import servers
from tests.e2e.shell import PLUGIN

pytestmark = pytest.mark.extended

RAW, PHOTOS, OUTPUT = (f"s3://bloomery/e2e-batch/{name}" for name in ("raw", "photos", "predictions"))
NAMES = {"null": 0, "eins": 1, "美食/凉皮": 2}
IMAGES = 3000
PODS = 2
ODD = {"notes.txt": "Format", "1/text.png": "NotAnImage", "2/half.png": "DamagedImage"}
"""Files that are no image, with the reason that they are listed with; ``.DS_Store`` is passed over."""
TOTAL = IMAGES + len(ODD)
SMALL = {"requests": {"cpu": "100m", "memory": "300Mi"}, "limits": {"cpu": "300m", "memory": "1Gi"}}
"""So slow that a pod can be killed between two parts of its share."""
EVERY = 101
"""One in so many images is also sent to the service: each number of a folder has its turn."""


@pytest.fixture(scope="module")
def photos() -> dict[str, bytes]:
    """Images in seven folders, without the odd files; copies under other names are images of their own."""
    pictures = [picture for files in digit_images(NAMES, each=150).values() for picture in files]
    return {f"{number % 7}/{number:05}.png": pictures[number % len(pictures)] for number in range(IMAGES)}


@pytest.fixture(scope="module")
def kubectl(make_namespace: Callable[[str], Kubectl], photos: dict[str, bytes]) -> Kubectl:
    """A namespace with a trained model, and with a service of it."""
    kubectl = make_namespace("e2e-batch")
    for uri in (RAW, PHOTOS, OUTPUT):
        remove_files(uri)
    put_files(RAW, class_folders(digit_images(NAMES, each=60)))
    half = next(iter(photos.values()))[:200]
    put_files(
        PHOTOS, photos | {"notes.txt": b"of June", "1/text.png": b"no image", "2/half.png": half, ".DS_Store": b"x"}
    )
    model = {"trainingJob": "digits"}
    engine = {"engine": "OnnxRuntime", "resources": SMALL}
    create(kubectl, "Dataset", "digits", source={"uri": RAW}, split={"validation": 0.3})
    create(
        kubectl, "TrainingJob", "digits",
        datasets=[{"name": "digits"}], preset="resnet18", initialModel={"weights": "None"},
        hyperparameters={"batchSize": 16, "imageSize": 32, "maxSteps": 40, "learningRate": 0.02},
        resources={"requests": {"cpu": "500m", "memory": "600Mi"}, "limits": {"cpu": "1", "memory": "2Gi"}},
        output={"registeredModel": "e2e-batch"},
    )  # fmt: skip
    create(kubectl, "InferenceService", "digits", variants=[{"name": "v1", "model": model, "weight": 100, **engine}])
    kubectl.wait("tj/digits", "Complete", seconds=300)
    kubectl.wait("isvc/digits", "Ready", seconds=120)
    return kubectl


def create(kubectl: Kubectl, kind: str, name: str, **spec: Any) -> None:
    manifest = {"apiVersion": "bloomery.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
    servers.create(kubectl, manifest)


@contextmanager
def followed(kubectl: Kubectl, prediction: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``kubectl bloomery follow`` beside the block."""
    command = [*PLUGIN, "follow", f"bp/{prediction}", f"--namespace={kubectl.namespace}"]
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=target().environment, stdout=file, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def states(output: S3Store) -> dict[int, dict[str, Any]]:
    """The state of each share that was begun."""
    with_state = {}
    for index in range(PODS):
        try:
            with_state[index] = json.loads(bytes(obstore.get(output, f"state/{index:05}.json").bytes()))
        except FileNotFoundError:
            continue
    return with_state


def share_at_work(output: S3Store) -> int | None:
    """The index of a pod between its first part and its last one."""
    begun = (index for index, state in states(output).items() if state["parts"] and done(state) < state["files"] - 500)
    return next(begun, None)


def done(state: dict[str, Any]) -> int:
    return int(state["images"]) + sum(state["ignored"].values())


def pod_of(kubectl: Kubectl, index: int) -> dict[str, Any] | None:
    """The living pod of a share."""
    words = f"batch.kubernetes.io/job-name=june-predict,batch.kubernetes.io/job-completion-index={index}"
    pods = kubectl.get("pods", "", f"--selector={words}")
    return next((pod for pod in pods if "deletionTimestamp" not in pod["metadata"]), None)


def replacement(kubectl: Kubectl, index: int, killed: str) -> str | None:
    pod = pod_of(kubectl, index)
    return pod["metadata"]["name"] if pod and pod["metadata"]["uid"] != killed else None


def shown(kubectl: Kubectl) -> list[str]:
    """The words of the prediction's line in ``kubectl get bp``."""
    return kubectl("get", "bp", "june", "--no-headers").split()


def lines_below(output: S3Store, folder: str) -> list[dict[str, Any]]:
    paths = sorted(entry["path"] for page in obstore.list(output, folder) for entry in page)
    texts = [bytes(obstore.get(output, path).bytes()).decode() for path in paths]
    return [json.loads(line) for text in texts for line in text.splitlines()]


@pytest.mark.feature("S22")
def test_a_pod_that_is_killed_at_work_loses_and_doubles_no_image(
    kubectl: Kubectl, photos: dict[str, bytes], tmp_path: Path
) -> None:
    """The answers are those of the service, and what the user sees meanwhile is true."""
    log = tmp_path / "follow"
    create(
        kubectl, "BatchPrediction", "june",
        model={"trainingJob": "digits"}, source={"uri": PHOTOS}, output={"uri": OUTPUT},
        parallelism=PODS, engine="OnnxRuntime", resources=SMALL,
    )  # fmt: skip
    with store(OUTPUT) as output, followed(kubectl, "june", log) as follow:
        index = eventually("a pod is between two parts", lambda: share_at_work(output), seconds=240, interval=0.2)
        victim = pod_of(kubectl, index)
        assert victim is not None
        kubectl("delete", "pod", victim["metadata"]["name"], "--grace-period=0", "--force")
        at_kill = states(output)
        running = shown(kubectl)
        pod = eventually("it is replaced", lambda: replacement(kubectl, index, victim["metadata"]["uid"]), seconds=90)
        kubectl.wait("bp/june", "Complete", seconds=400)
        assert follow.wait(30) == 0
        predictions, ignored = lines_below(output, "predictions"), lines_below(output, "ignored")
        ended = states(output)
    print(f"pod {index} was killed after {done(at_kill[index])} of {at_kill[index]['files']} files: {log.read_text()}")

    assert done(at_kill[index]) < at_kill[index]["files"]
    resumed = re.search(r"(\d+) of the \d+ files of this process are done", kubectl("logs", pod))
    assert resumed and int(resumed[1]) >= 500
    assert Counter(entry["file"] for entry in predictions) == Counter(list(photos))
    assert {entry["file"]: entry["reason"] for entry in ignored} == ODD
    assert sum(map(done, ended.values())) == TOTAL
    assert_it_was_shown(kubectl, running, log.read_text())
    assert_the_service_answers_the_same(kubectl, photos, {entry["file"]: entry for entry in predictions})


def assert_it_was_shown(kubectl: Kubectl, running: list[str], log: str) -> None:
    """Require that ``kubectl get bp`` and ``follow`` showed what had been done."""
    model = kubectl.get("tj", "digits")["status"]["model"]["display"]
    status = kubectl.get("bp", "june")["status"]
    assert running[:3] == ["june", "Running", model]
    assert shown(kubectl)[:-1] == ["june", "Complete", model, f"{TOTAL}/{TOTAL}", str(IMAGES), str(len(ODD))]
    assert status["ignored"] == dict.fromkeys(ODD.values(), 1)
    assert status["engine"] == "ONNX Runtime in float32"
    progress = [int(files) for files in re.findall(rf"^Running: predicting: (\d+)/{TOTAL} files", log, re.MULTILINE)]
    assert progress == sorted(progress)
    assert any(0 < files < TOTAL for files in progress)
    assert "training" not in log
    assert f"Complete: Predicted: {IMAGES} images are predicted" in log


def assert_the_service_answers_the_same(
    kubectl: Kubectl, photos: dict[str, bytes], predictions: dict[str, dict[str, Any]]
) -> None:
    url, key = kubectl.get("isvc", "digits")["status"]["url"], kubectl.secret("digits-api-key")["default"]
    headers = {"authorization": key, "content-type": "image/png"}
    for file in list(photos)[::EVERY]:
        answer = (
            httpx.post(f"{url}/predict", content=photos[file], headers=headers, timeout=60).raise_for_status().json()
        )
        entry = predictions[file]
        assert answer["label"] == entry["label"]
        # A pod computes several images together, which may change the last digit.
        assert answer["scores"] == pytest.approx(entry["scores"], abs=2e-6)
