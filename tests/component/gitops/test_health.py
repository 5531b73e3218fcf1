"""Health of the kinds for GitOps tools: the verdict of kstatus, and of the health check for Argo CD in the docs."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from dev.paths import ROOT
from testing.kubernetes_api import Manifest
from testing.samples import (
    batch_prediction,
    dataset,
    inference_service,
    prepared,
    retraining,
    trained,
    training_job,
    variant,
)
from testing.simulated_controllers import World

pytestmark = pytest.mark.feature("O6")

SOURCES = Path(__file__).parent
ERROR = {"error": {"reason": "TooFewImages", "message": "Class 'roses' has 12 images; 20 are needed."}}
EXPECTED = {
    ("Dataset", "Pending"): ("InProgress", "Progressing"),
    ("Dataset", "Preparing"): ("InProgress", "Progressing"),
    ("Dataset", "Ready"): ("Current", "Healthy"),
    ("Dataset", "Failed"): ("Failed", "Degraded"),
    # Another controller has not written a status yet.
    ("TrainingJob", None): ("InProgress", "Progressing"),
    ("TrainingJob", "Pending"): ("InProgress", "Progressing"),
    ("TrainingJob", "Queued"): ("InProgress", "Progressing"),
    ("TrainingJob", "Running"): ("InProgress", "Progressing"),
    ("TrainingJob", "Suspended"): ("Current", "Suspended"),
    ("TrainingJob", "Complete"): ("Current", "Healthy"),
    ("TrainingJob", "Failed"): ("Failed", "Degraded"),
    ("Retraining", "Pending"): ("InProgress", "Progressing"),
    ("Retraining", "Waiting"): ("Current", "Healthy"),
    ("Retraining", "Training"): ("Current", "Healthy"),
    ("Retraining", "Suspended"): ("Current", "Suspended"),
    ("Retraining", "Failed"): ("Failed", "Degraded"),
    ("BatchPrediction", "Pending"): ("InProgress", "Progressing"),
    ("BatchPrediction", "Queued"): ("InProgress", "Progressing"),
    ("BatchPrediction", "Running"): ("InProgress", "Progressing"),
    ("BatchPrediction", "Suspended"): ("Current", "Suspended"),
    ("BatchPrediction", "Complete"): ("Current", "Healthy"),
    ("BatchPrediction", "Failed"): ("Failed", "Degraded"),
    ("InferenceService", "Deploying"): ("InProgress", "Progressing"),
    ("InferenceService", "Running"): ("Current", "Healthy"),
    ("InferenceService", "Degraded"): ("Current", "Degraded"),
    ("InferenceService", "Stopped"): ("Current", "Suspended"),
    ("InferenceService", "Failed"): ("Failed", "Degraded"),
}
"""Verdicts of kstatus and of Argo CD for each kind and phase."""

Check = Callable[[Sequence[Manifest]], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def checks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Check, Check]:
    """Give kstatus' own library and Argo CD's Lua interpreter as functions of objects."""
    folder = tmp_path_factory.mktemp("gitops")
    environment = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false"}
    build = ["go", "build", "-o", f"{folder}/", "./..."]
    # The first build compiles Kubernetes' types, which takes minutes on a busy machine.
    subprocess.run(build, cwd=SOURCES, env=environment, check=True, timeout=600)
    script = folder / "health.lua"
    script.write_text(_health_check_of_the_docs())
    return _runner(folder / "kstatus"), _runner(folder / "lua", str(script))


def _runner(*command: str | Path) -> Check:
    def run(objects: Sequence[Manifest]) -> list[dict[str, Any]]:
        done = subprocess.run(
            command, input=json.dumps(objects), capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        verdicts: list[dict[str, Any]] = json.loads(done.stdout)
        return verdicts

    return run


def _health_check_of_the_docs() -> str:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"health\.lua: \|\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    return str(script)


@pytest.mark.usefixtures("operator")
def test_every_phase_has_its_verdict_in_kstatus_and_argo_cd(world: World, checks: tuple[Check, Check]) -> None:
    objects = [*_datasets(world), *_training_jobs(world), *_retrainings(world), *_predictions(world), *_services(world)]
    phases = [(item["kind"], item["status"].get("phase")) for item in objects]
    assert set(phases) == EXPECTED.keys()
    kstatus, argo_cd = (check(objects) for check in checks)
    verdicts = [(one["status"], other["status"]) for one, other in zip(kstatus, argo_cd, strict=True)]
    assert dict(zip(phases, verdicts, strict=True)) == EXPECTED
    messages = {phase: other["message"] for phase, other in zip(phases, argo_cd, strict=True)}
    assert messages["Dataset", "Failed"] == ERROR["error"]["message"]


@pytest.mark.usefixtures("operator")
def test_conditions_of_kstatus_exist_only_while_they_are_true(world: World) -> None:
    world.create(dataset())
    world.wait_for_condition("datasets", "flowers", "Reconciling", "True", reason="Pending")
    world.fail("flowers-prepare", ERROR, exit_code=3)
    world.wait_for_condition("datasets", "flowers", "Stalled", "True", reason="TooFewImages")
    failed = world.wait_for("jobs", "flowers-prepare")["metadata"]["uid"]
    world.patch("datasets", "flowers", {"spec": {"rules": {"minImagesPerClass": 10}}})
    world.wait_for("jobs", "flowers-prepare", lambda job: job["metadata"]["uid"] != failed)
    world.delete("pods", "flowers-prepare-0")  # what the garbage collector does
    world.succeed("flowers-prepare", prepared())
    world.wait_for_condition("datasets", "flowers", "Ready", "True")
    conditions = world.wait_for("datasets", "flowers")["status"]["conditions"]
    assert [condition["type"] for condition in conditions] == ["Ready"]
    # A condition that repeats another one is no Event of its own.
    reasons = [event["reason"] for event in world.list("events") if event["involvedObject"]["name"] == "flowers"]
    assert reasons.count("TooFewImages") == 1


def _settled(world: World, plural: str, phases: dict[str, str | None]) -> list[Manifest]:
    """Wait until objects have their phases; return them."""

    def is_settled(item: Manifest, phase: str | None) -> bool:
        status = item["status"]
        return status.get("phase") == phase and (
            phase is None or status["observedGeneration"] == item["metadata"]["generation"]
        )

    return [
        world.wait_for(plural, name, lambda item: is_settled(item, phases[item["metadata"]["name"]])) for name in phases
    ]


def _datasets(world: World) -> list[Manifest]:
    world.create(dataset("waiting", source={"uri": "s3://flowers/raw", "secretRef": {"name": "missing"}}))
    for name in ("preparing", "flowers", "broken"):
        world.create(dataset(name))
    world.start_pod("preparing-prepare")
    world.succeed("flowers-prepare", prepared())
    world.fail("broken-prepare", ERROR, exit_code=3)
    phases = {"waiting": "Pending", "preparing": "Preparing", "flowers": "Ready", "broken": "Failed"}
    return _settled(world, "datasets", phases)


def _training_jobs(world: World) -> list[Manifest]:
    world.create(training_job("elsewhere", managedBy="kueue.x-k8s.io/multikueue"))
    world.create(training_job("waiting", datasets=[{"name": "missing"}]))
    world.create(training_job("queued", queue="team-a"))
    world.create(training_job("suspended", suspend=True))
    for name in ("running", "complete", "broken"):
        world.create(training_job(name))
    world.start_pod("running-train")
    world.succeed("complete-train", trained())
    world.fail("broken-train", ERROR, exit_code=3)
    phases = {
        "elsewhere": None,
        "waiting": "Pending",
        "queued": "Queued",
        "suspended": "Suspended",
        "running": "Running",
        "complete": "Complete",
        "broken": "Failed",
    }
    return _settled(world, "trainingjobs", phases)


def _retrainings(world: World) -> list[Manifest]:
    # There is no MLflow of which to ask for the champion.
    unknown = {"output": {"promote": {"alias": "champion"}}}
    world.create(retraining("blocked", onNewVersion=True, training=unknown))
    world.create(retraining("idle", schedule="0 0 1 1 *"))
    world.create(retraining("active", onNewVersion=True))
    world.create(retraining("paused", onNewVersion=True, suspend=True))
    world.create(retraining("never", schedule="0 0 31 2 *"))
    phases: dict[str, str | None] = {
        "blocked": "Pending",
        "idle": "Waiting",
        "active": "Training",
        "paused": "Suspended",
        "never": "Failed",
    }
    return _settled(world, "retrainings", phases)


def _predictions(world: World) -> list[Manifest]:
    world.create(batch_prediction("unknown", model={"trainingJob": "missing"}))
    world.create(batch_prediction("queue", queue="team-a"))
    world.create(batch_prediction("resting", suspend=True))
    for name in ("working", "done", "wrong"):
        world.create(batch_prediction(name))
    world.start_pod("working-predict")
    world.succeed("done-predict", {"images": 1, "ignored": {}, "total": 1, "digest": "sha256:d"})
    world.fail(
        "wrong-predict", {"error": {"reason": "OutputInUse", "message": "The folder is another's."}}, exit_code=2
    )
    phases: dict[str, str | None] = {
        "unknown": "Pending",
        "queue": "Queued",
        "resting": "Suspended",
        "working": "Running",
        "done": "Complete",
        "wrong": "Failed",
    }
    return _settled(world, "batchpredictions", phases)


def _services(world: World) -> list[Manifest]:
    phases = {"starting": "Deploying", "serving": "Running", "partly": "Degraded", "off": "Stopped", "broken": "Failed"}
    for name in phases:
        replicas = 2 if name == "partly" else 1
        variants = [variant("v1", 100)]
        world.create(inference_service(name, variants=variants, replicas=replicas, stopped=name == "off"))
    for name in ("serving", "partly"):
        world.set_ready(world.revision(name, "v1"), 1)
        world.accept_route(name)
    _crash(world, world.revision("broken", "v1"))
    return _settled(world, "inferenceservices", phases)


def _crash(world: World, revision: str) -> None:
    """Let the only pod of a revision report an error."""
    name = world.run_server(revision, ip="10.0.0.9")
    terminated = {"exitCode": 3, "message": '{"error": {"reason": "ModelNotRunnable", "message": "It returns NaN."}}'}
    container = {"name": "server", "image": "i", "imageID": "", "ready": False, "restartCount": 3}
    container |= {"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": terminated}}
    not_ready = {"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    status = {"phase": "Running", "containerStatuses": [container], "conditions": [not_ready]}
    world.patch("pods", name, {"status": status}, subresource="status")
    world.set_ready(revision, 0)
