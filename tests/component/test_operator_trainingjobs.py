"""TrainingJobs: what a user sees while one waits, trains, fails and is over."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.component.operator_harness import (
    Manifest,
    World,
    condition_of,
    dataset,
    eventually,
    prepared,
    trained,
    training_job,
)

pytestmark = pytest.mark.usefixtures("operator")

PROGRESS_PORT = 8089
PROGRESS_SECONDS = 0.5


@pytest.fixture
def ready_world(world: World) -> World:
    """Give a namespace with a prepared Dataset."""
    world.create(dataset())
    world.succeed("flowers-prepare", prepared())
    world.wait_for_condition("datasets", "flowers", "Ready", "True")
    return world


class Trainer:
    """Tells its progress at an address of its own, and counts how often it is asked."""

    address = "127.0.77.1"

    def __init__(self) -> None:
        self.asked = 0
        self.progress: Callable[[], Any] = dict


@pytest.fixture
def trainer() -> Iterator[Trainer]:
    """Give a trainer that answers whoever asks for its progress."""
    trainer = Trainer()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            trainer.asked += 1
            self.wfile.write(json.dumps(trainer.progress()).encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer((trainer.address, PROGRESS_PORT), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    yield trainer
    server.shutdown()
    server.server_close()


def test_a_job_that_waits_for_no_dataset_says_which_one_and_starts_once_it_is_there(world: World) -> None:
    world.create(training_job())
    running = world.wait_for_condition("trainingjobs", "flowers", "Running", "False", reason="DatasetNotFound")
    assert "'flowers'" in running["message"]
    assert world.wait_for("trainingjobs", "flowers")["status"]["phase"] == "Pending"
    world.create(dataset())
    world.succeed("flowers-prepare", prepared())
    world.wait_for("jobs", "flowers-train")


def test_a_failed_dataset_fails_no_job_but_is_named_by_it(world: World) -> None:
    world.create(dataset())
    world.create(training_job())
    world.fail("flowers-prepare", {"error": {"reason": "NoImages", "message": "There are none."}}, exit_code=3)
    running = world.wait_for_condition("trainingjobs", "flowers", "Running", "False", reason="DatasetFailed")
    assert running["message"].endswith("There are none.")


def test_a_version_that_is_not_there_is_answered_with_those_that_are(ready_world: World) -> None:
    ready_world.create(training_job(datasets=[{"name": "flowers", "version": 2}]))
    running = ready_world.wait_for_condition(
        "trainingjobs", "flowers", "Running", "False", reason="DatasetVersionNotFound"
    )
    assert "1 (aaaaaaaaaaaa)" in running["message"]


def test_a_job_trains_on_the_version_that_it_names_while_a_newer_one_is_being_made(ready_world: World) -> None:
    ready_world.patch("datasets", "flowers", {"spec": {"split": {"seed": 1}}})
    ready_world.wait_for_condition("datasets", "flowers", "Ready", "False")
    ready_world.create(training_job("newest"))
    ready_world.create(training_job("first", datasets=[{"name": "flowers", "version": 1}]))
    job = ready_world.wait_for("trainingjobs", "first", lambda job: job.get("status", {}).get("dataset"))
    assert job["status"]["dataset"]["version"] == "a" * 64
    ready_world.wait_for_condition("trainingjobs", "newest", "Running", "False", reason="DatasetNotReady")
    assert "newest-train" not in ready_world.names("jobs")


@pytest.mark.parametrize(
    ("exit_code", "reason", "message"),
    [
        (2, "UnknownPreset", "The preset 'resnet' is not known."),
        (3, "BadShard", "train-00000.tar is damaged."),
    ],
)
def test_a_mistake_of_the_users_fails_the_job_in_the_trainers_words(
    ready_world: World, exit_code: int, reason: str, message: str
) -> None:
    ready_world.create(training_job())
    ready_world.fail("flowers-train", {"error": {"reason": reason, "message": message}}, exit_code=exit_code)
    failed = ready_world.wait_for_condition("trainingjobs", "flowers", "Failed", "True", reason=reason)
    assert failed["message"] == message
    status = ready_world.wait_for("trainingjobs", "flowers")["status"]
    assert status["phase"] == "Failed"
    assert status["completionTime"]
    assert "model" not in status


def test_a_crash_is_reported_with_its_exit_code_and_last_line(ready_world: World) -> None:
    ready_world.create(training_job())
    ready_world.fail("flowers-train", "loading\nRuntimeError: out of memory", exit_code=1)
    failed = ready_world.wait_for_condition("trainingjobs", "flowers", "Failed", "True")
    assert failed["message"].endswith("ended with exit code 1: RuntimeError: out of memory")


def test_progress_of_the_running_pod_is_shown(ready_world: World, trainer: Trainer) -> None:
    ready_world.create(training_job())
    trainer.progress = lambda: {
        "stage": "training",
        "epoch": 1,
        "epochs": 3,
        "step": 480,
        "totalSteps": 6000,
        "imagesPerSecond": 812.0,
        "etaSeconds": 660,
        "loss": float("nan"),
        "metric": 0.93,
        "mlflow": {"experimentId": "7", "runId": "abc"},
    }
    ready_world.start_pod("flowers-train", ip=trainer.address)

    def step(wanted: str) -> Manifest:
        def shown(job: Manifest) -> bool:
            return job["status"].get("progress", {}).get("steps") == wanted

        status: Manifest = ready_world.wait_for("trainingjobs", "flowers", shown)["status"]
        return status

    status = step("480/6000")
    assert status["phase"] == "Running"
    assert status["progress"]["eta"] == "11m0s"
    assert "loss" not in status["progress"]
    assert status["metric"] == "top1 0.9300"
    assert status["mlflow"]["runId"] == "abc"

    trainer.progress = lambda: {"step": "many", "epoch": []}
    asked = trainer.asked
    eventually(lambda: trainer.asked > asked + 1, "an answer of no agreed form was taken")
    nowhere = {"experimentId": None, "runId": None}
    trainer.progress = lambda: {"stage": "evaluating", "step": 6000, "totalSteps": 6000, "mlflow": nowhere}
    assert step("6000/6000")["mlflow"]["runId"] == "abc"
    ready_world.succeed("flowers-train", trained(), pod="flowers-train-0")
    done = ready_world.wait_for_condition("trainingjobs", "flowers", "Complete", "True")
    assert done["reason"] == "Trained"


def test_a_trainer_that_is_always_further_is_asked_no_more_often_for_that(ready_world: World, trainer: Trainer) -> None:
    trainer.progress = lambda: {"step": trainer.asked, "totalSteps": 6000}
    ready_world.create(training_job())
    ready_world.start_pod("flowers-train", ip=trainer.address)
    eventually(lambda: trainer.asked > 0, "the trainer is asked")
    before, since = trainer.asked, time.monotonic()
    eventually(lambda: trainer.asked >= before + 4, "it is asked again and again")
    assert time.monotonic() - since > 4 * PROGRESS_SECONDS * 0.9
    ready_world.succeed("flowers-train", trained(), pod="flowers-train-0")
    ready_world.wait_for_condition("trainingjobs", "flowers", "Complete", "True")


def test_a_job_that_could_not_be_registered_is_complete_and_says_so(ready_world: World) -> None:
    ready_world.create(training_job())
    result = trained(version=None) | {"mlflow": {"experimentId": None, "runId": None}}
    ready_world.succeed("flowers-train", result)
    complete = ready_world.wait_for_condition("trainingjobs", "flowers", "Complete", "True", reason="NotRegistered")
    assert "MLflow" in complete["message"]
    model = ready_world.wait_for("trainingjobs", "flowers")["status"]["model"]
    assert model["digest"].startswith("sha256:")
    assert "version" not in model


def test_the_last_words_count_even_if_they_come_with_the_end(ready_world: World) -> None:
    ready_world.create(training_job())
    pod = ready_world.start_pod("flowers-train")
    ready_world.end_pod(pod, exit_code=0, message=trained())
    ready_world.complete_job("flowers-train")
    ready_world.wait_for_condition("trainingjobs", "flowers", "Complete", "True", reason="Trained")


def test_a_finished_job_stays_as_it_is_whatever_happens_to_its_children(ready_world: World) -> None:
    ready_world.create(training_job())
    ready_world.succeed("flowers-train", trained())
    ready_world.wait_for_condition("trainingjobs", "flowers", "Complete", "True")
    before = ready_world.wait_for("trainingjobs", "flowers")["status"]
    ready_world.delete("jobs", "flowers-train")
    ready_world.delete("pods", "flowers-train-0")
    ready_world.delete("datasets", "flowers")
    # Something that is seen only after all of these: the operator has looked at the job again by then.
    ready_world.create(dataset("tulips"))
    ready_world.wait_for("jobs", "tulips-prepare")
    ready_world.patch("trainingjobs", "flowers", {"metadata": {"annotations": {"example/seen": "1"}}})
    assert "flowers-train" not in ready_world.names("jobs")
    assert ready_world.wait_for("trainingjobs", "flowers")["status"] == before


def test_a_job_is_gone_when_its_time_to_live_is_over(ready_world: World) -> None:
    ready_world.create(training_job(ttlSecondsAfterFinished=3))
    ready_world.succeed("flowers-train", trained())
    ready_world.wait_for_condition("trainingjobs", "flowers", "Complete", "True")
    ready_world.wait_until_gone("trainingjobs", "flowers")


def test_a_deleted_job_of_the_same_name_is_not_mixed_up_with_the_new_one(ready_world: World) -> None:
    ready_world.create(training_job())
    ready_world.succeed("flowers-train", trained())
    ready_world.wait_for_condition("trainingjobs", "flowers", "Complete", "True")
    ready_world.delete("trainingjobs", "flowers")
    ready_world.create(training_job())
    running = ready_world.wait_for_condition("trainingjobs", "flowers", "Running", "False", reason="Replacing")
    assert "still being removed" in running["message"]
    # What the garbage collector does.
    ready_world.delete("jobs", "flowers-train")
    ready_world.delete("pods", "flowers-train-0")
    for name in ready_world.names("configmaps"):
        if name.startswith("flowers-train-"):
            ready_world.delete("configmaps", name)
    ready_world.succeed("flowers-train", trained("2"))
    complete = ready_world.wait_for_condition("trainingjobs", "flowers", "Complete", "True")
    assert "version 2" in complete["message"]


def test_a_refused_job_says_what_the_api_server_said_and_heals(ready_world: World) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "none", "namespace": ready_world.namespace},
        "spec": {"hard": {"count/jobs.batch": "0"}},
    }
    quotas = f"/api/v1/namespaces/{ready_world.namespace}/resourcequotas"
    assert ready_world.client.post(quotas, json=quota).is_success
    ready_world.client.patch(
        f"{quotas}/none/status",
        content=json.dumps({"status": {"hard": {"count/jobs.batch": "0"}, "used": {"count/jobs.batch": "0"}}}),
        headers={"Content-Type": "application/merge-patch+json"},
    )
    ready_world.create(training_job())
    running = ready_world.wait_for_condition("trainingjobs", "flowers", "Running", "False", reason="Refused")
    assert "exceeded quota" in running["message"]
    assert ready_world.client.delete(f"{quotas}/none").is_success
    ready_world.wait_for("jobs", "flowers-train")
    assert not condition_of(ready_world.get("trainingjobs", "flowers"), "Failed")
