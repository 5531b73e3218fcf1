"""Users of the soak test: each repeatedly creates, uses, changes and deletes objects of all kinds."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Mapping
from typing import Any

import httpx

from dev.paths import LOGS
from testing.cluster_store import class_folders, digit_images, put_files
from testing.dev_cluster import Kubectl, eventually
from tests.e2e.servers import create
from tests.soak.gauges import CHILDREN, Record

RAW, CAPTURES, PREDICTIONS = (f"s3://bloomery/{folder}/soak" for folder in ("raw", "captures", "predictions"))
MODEL = "soak"
CLASSES = {"null": 0, "eins": 1, "美食/凉皮": 2}
EACH = 60
"""Images of a class."""
CUT_SHORT = 0.25
"""The share of lives that end in the middle of whatever is going on."""
SUSPENDED = 0.3
"""The share of trainings that are suspended once."""
STANDING = "standing"
"""The service that is there all the time, and the TrainingJob of its model: others serve that too for a while."""
ROLLOUT = {"steps": [20, 60], "interval": "3s"}
LIMIT = 600.0
"""Seconds that anything may take: a busy machine, an outage and two killed pods in a row fit in it."""
_KIND = {
    "Dataset": "dataset",
    "TrainingJob": "tj",
    "InferenceService": "isvc",
    "BatchPrediction": "bp",
    "Retraining": "retraining",
}


def put_images() -> bytes:
    """Write the images that all Datasets read; return one more to ask about."""
    images = digit_images(CLASSES, each=EACH)
    put_files(RAW, class_folders(images))
    return images["eins"][0]


def manifests(name: str, *, replicas: int = 1) -> list[dict[str, Any]]:
    """From images to predictions: what a user applies at once."""
    training = training_spec(name) | {"output": {"registeredModel": MODEL}}
    preparing = {"requests": {"cpu": "200m", "memory": "300Mi"}, "limits": {"memory": "1Gi"}}
    specs = {
        "Dataset": {"source": {"uri": RAW}, "split": {"validation": 0.3}, "resources": preparing},
        "TrainingJob": training,
        "InferenceService": {
            "replicas": replicas,
            "variants": [variant("v1", name, 100)],
            "capture": {"uri": CAPTURES, "percent": 100},
        },
    }
    return [manifest(kind, name, spec) for kind, spec in specs.items()]


def manifest(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Return an object of one of our kinds."""
    return {"apiVersion": "bloomery.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def training_spec(dataset: str) -> dict[str, Any]:
    """Return a short training on a Dataset."""
    return {
        "datasets": [{"name": dataset}],
        "preset": "mobilenet-v3-small",
        "hyperparameters": {"batchSize": 16, "imageSize": 32, "horizontalFlip": False, "maxSteps": 40},
        "checkpoint": {"every": "10steps"},
        "resources": {"requests": {"cpu": "200m", "memory": "600Mi"}, "limits": {"cpu": "1", "memory": "2Gi"}},
    }


def variant(name: str, job: str, weight: int) -> dict[str, Any]:
    """A variant that serves what a TrainingJob trained."""
    serving = {"requests": {"cpu": "50m", "memory": "300Mi"}, "limits": {"memory": "1Gi"}}
    return {"name": name, "model": {"trainingJob": job}, "weight": weight, "resources": serving}


class User:
    """One user, whose actions are set by a seed; problems go to the record."""

    def __init__(self, letter: str, seed: int, kubectl: Kubectl, record: Record, image: bytes) -> None:
        self._letter = letter
        self._random = random.Random(f"{seed}{letter}")
        self._kubectl = kubectl
        self._record = record
        self._image = image

    def work(self, stop: threading.Event) -> None:
        """One life after another; the last is lived to its end."""
        number = 0
        while not stop.is_set():
            number += 1
            name = f"{self._letter}{number}"
            try:
                self.create(name)
                if self._random.random() < CUT_SHORT:
                    stop.wait(self._random.uniform(2, 60))
                else:
                    self._live(name)
                self.delete(name)
            except Exception as error:  # record any error: it must not end the user unnoticed
                self._record.problem(f"{name}: {error!r}")
                self._keep(name)
                self._kubectl.run("delete", *self._all(name), "--ignore-not-found", "--wait=false", check=False)

    def create(self, name: str, *, replicas: int = 1) -> None:
        for document in manifests(name, replicas=replicas):
            self._apply(document)

    def _apply(self, document: dict[str, Any]) -> None:
        create(self._kubectl, document)
        self._record.count("created")

    def _live(self, name: str) -> None:
        began: float | None = time.monotonic()
        if self._random.random() < SUSPENDED:
            self._suspend_for_a_while(name)
            began = None  # how long that took says nothing of others
        self.see_through(name, began)
        for _ in range(self._random.randint(1, 3)):
            edits = (self._rename, self._scale, self._pause, self._exclude, self._release, self._replace)
            edit = self._random.choice((*edits, self._predict_all, self._retrain))
            edit(name)
        self.ask(name)
        self._send_feedback(name)

    def see_through(self, name: str, began: float | None = None) -> None:
        """Wait until all three are where they should end; note how long it took since they were applied."""
        for kind, condition in (("Dataset", "Ready"), ("TrainingJob", "Complete"), ("InferenceService", "Ready")):
            self._reach(kind, name, condition)
            if began is not None:
                self._record.took(f"{kind} {condition}", time.monotonic() - began)
        registered = lambda: self._status("TrainingJob", name).get("model", {}).get("version")  # noqa: E731
        eventually(f"the model of {name} is registered", registered, seconds=LIMIT, interval=2)

    def ask(self, name: str) -> None:
        """Ask by the gateway, with the key: the answer must come from the model that was just trained."""
        answer = self._predict(name)
        assert answer.status_code == 200, f"{answer.status_code} {answer.text[:200]}"
        assert answer.json()["label"] in CLASSES, answer.text[:200]
        trained = self._status("TrainingJob", name)["model"]["digest"]
        served = answer.headers["x-model-digest"]
        assert served == trained, f"it serves {served}, and {trained} was trained"

    def _predict(self, name: str) -> httpx.Response:
        return self._post(name, "predict", content=self._image, headers={"content-type": "image/png"})

    def _post(self, name: str, path: str, *, headers: Mapping[str, str] | None = None, **body: Any) -> httpx.Response:
        """Send a request to the service by the gateway, with its key."""
        status = self._status("InferenceService", name)
        key = self._kubectl.secret(status["apiKeySecret"])["default"]
        return httpx.post(
            f"{status['url']}/{path}", headers={"authorization": key, **(headers or {})}, timeout=60, **body
        )

    def _send_feedback(self, name: str) -> None:
        """Say what an image shows; a capture that the store missed in an outage needs another prediction."""

        def is_stored() -> bool:
            predicted = self._predict(name).headers.get("x-prediction-id", "")
            # A capture reaches the store within seconds.
            time.sleep(2)
            answer = self._post(name, "feedback", json={"id": predicted, "label": "eins"})
            assert answer.status_code in (200, 404, 503), f"{answer.status_code} {answer.text[:200]}"
            return answer.status_code == 200

        eventually(f"feedback to {name} is stored", is_stored, seconds=LIMIT, interval=2)
        self._record.count("feedback")

    def delete(self, name: str) -> None:
        """Delete all of its objects, in any order; nothing of theirs may stay."""
        words = self._all(name)
        self._kubectl("delete", *words, "--ignore-not-found", "--wait=false")
        self._record.count("deleted", len(words))

        def left() -> list[str]:
            return self._kubectl("get", CHILDREN, f"--selector=app.kubernetes.io/instance={name}", "-oname").split()

        try:
            eventually(f"nothing is left of {name}", lambda: not left(), seconds=LIMIT, interval=3)
        except AssertionError:
            self._record.problem(f"{name} was deleted, and left {', '.join(left())}")

    def _keep(self, name: str) -> None:
        """Keep the state of all of its objects, for later analysis."""
        done = self._kubectl.run("get", *self._all(name), "--ignore-not-found", "--output=yaml", check=False)
        of_name = f"--selector=app.kubernetes.io/instance={name}"
        pods = self._kubectl.run("describe", "pods,jobs,deployments", of_name, check=False)
        (LOGS / "soak" / f"{name}.yaml").write_text(done.stdout + pods.stdout, encoding="utf-8")

    def _all(self, name: str) -> list[str]:
        return self._random.sample([f"{kind}/{name}" for kind in _KIND.values()], len(_KIND))

    def _rename(self, name: str) -> None:
        self._patch("InferenceService", name, {"displayName": f"number {self._random.randint(0, 10**6)}"})
        self._reach("InferenceService", name, "Ready")

    def _scale(self, name: str) -> None:
        for replicas in (2, 1):
            self._patch("InferenceService", name, {"replicas": replicas})
            self._reach("InferenceService", name, "Ready")

    def _pause(self, name: str) -> None:
        self._patch("InferenceService", name, {"stopped": True})
        stopped = lambda: self._status("InferenceService", name)["phase"] == "Stopped"  # noqa: E731
        eventually(f"{name} is stopped", stopped, seconds=LIMIT, interval=2)
        self._patch("InferenceService", name, {"stopped": False})
        self._reach("InferenceService", name, "Ready")

    def _release(self, name: str) -> None:
        """A second variant takes a share, then another one, and goes again."""
        for share in (30, self._random.choice((10, 60))):
            self._serve(name, variant("v1", name, 100 - share), variant("v2", STANDING, share))
        self._serve(name, variant("v1", name, 100))

    def _replace(self, name: str) -> None:
        """Another model in the place of the first, and back."""
        for job in (STANDING, name):
            self._serve(name, variant("v1", job, 100))

    def _serve(self, name: str, *variants: dict[str, Any]) -> None:
        """Change who answers by a short rollout; wait until it is over and who answered before is drained and gone."""
        self._patch("InferenceService", name, {"rollout": ROLLOUT, "variants": list(variants)})
        self._reach("InferenceService", name, "Ready")
        weights = {each["name"]: each["weight"] for each in variants}

        def is_over() -> bool:
            status = self._status("InferenceService", name)
            serving = {each["name"]: each["weight"] for each in status["variants"]}
            revisions = {each.get("revision") for each in status["variants"]}
            deployments = self._kubectl.get("deployments", "", f"--selector=bloomery.dev/inferenceservice={name}")
            there = {deployment["metadata"]["name"] for deployment in deployments}
            return "rollout" not in status and serving == weights and revisions == there

        eventually(f"{name} has gone over to {weights}", is_over, seconds=LIMIT, interval=2)
        self._reach("InferenceService", name, "Ready")

    def _exclude(self, name: str) -> None:
        """A new version of the images; what was trained on the old one stays."""
        before = self._kubectl.get("dataset", name)["spec"].get("exclude", [])
        others = [path for path in (f"null/{number}.png" for number in range(EACH)) if path not in before]
        self._patch("Dataset", name, {"exclude": [self._random.choice(others)]})
        self._reach("Dataset", name, "Ready")

    def _predict_all(self, name: str) -> None:
        """Predict all images at once: each is counted once."""
        spec = {
            "model": {"trainingJob": name},
            "source": {"uri": RAW},
            "output": {"uri": f"{PREDICTIONS}/{name}"},
            "parallelism": 2,
            "resources": {"requests": {"cpu": "200m", "memory": "300Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}},
        }
        self._apply(manifest("BatchPrediction", name, spec))
        self._reach("BatchPrediction", name, "Complete")
        status = self._status("BatchPrediction", name)
        counts = (status.get("images"), status.get("ignoredFiles", 0))
        assert counts == (EACH * len(CLASSES), 0), f"predicted and ignored: {counts}"
        self._remove("BatchPrediction", name)

    def _retrain(self, name: str) -> None:
        """Train by a Retraining for two new versions; the champion of an earlier one may know the present version."""
        template = training_spec(name) | {"output": {"promote": {"alias": "champion", "betterThanCurrent": True}}}
        spec = {"onNewVersion": True, "template": {"spec": template}}
        self._exclude(name)
        self._apply(manifest("Retraining", name, spec))
        self._reach_training(name, 1)
        self._exclude(name)
        self._reach_training(name, 2)
        self._remove("Retraining", name)

    def _reach_training(self, name: str, number: int) -> None:
        """Wait until a Retraining has completed so many trainings; fail if one failed."""

        def reached() -> bool:
            phases = [training.get("phase") for training in self._status("Retraining", name).get("history", [])]
            assert "Failed" not in phases, f"a training of the Retraining {name} failed: {phases}"
            return phases.count("Complete") >= number

        eventually(f"training {number} of the Retraining {name} is complete", reached, seconds=LIMIT, interval=2)

    def _remove(self, kind: str, name: str) -> None:
        self._kubectl("delete", _KIND[kind], name)
        self._record.count("deleted")

    def _suspend_for_a_while(self, name: str) -> None:
        """Suspend a training in any phase, and resume it; it may have ended before."""
        time.sleep(self._random.uniform(0, 45))
        self._patch("TrainingJob", name, {"suspend": True})
        self._reach("TrainingJob", name, "Suspended", "Complete")
        self._patch("TrainingJob", name, {"suspend": False})

    def _patch(self, kind: str, name: str, spec: dict[str, Any]) -> None:
        self._kubectl("patch", _KIND[kind], name, "--type=merge", f"--patch={json.dumps({'spec': spec})}")
        self._record.count("edited")

    def _status(self, kind: str, name: str) -> dict[str, Any]:
        status: dict[str, Any] = self._kubectl.get(_KIND[kind], name).get("status", {})
        return status

    def _reach(self, kind: str, name: str, *types: str) -> None:
        """Wait until one of the conditions is true for the current spec; fail if the object failed."""

        def reached() -> bool:
            item = self._kubectl.get(_KIND[kind], name)
            status = item.get("status", {})
            conditions = status.get("conditions", [])
            is_seen = status.get("observedGeneration") == item["metadata"]["generation"]
            assert status.get("phase") != "Failed" or not is_seen, f"{kind} failed: {json.dumps(conditions)}"
            return is_seen and any(c["type"] in types and c["status"] == "True" for c in conditions)

        eventually(f"{kind} {name} is {' or '.join(types)}", reached, seconds=LIMIT, interval=1.5)
