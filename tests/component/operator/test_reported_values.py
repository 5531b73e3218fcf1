"""Values that pods report and people edit, which the API server would refuse or no one could read."""

from __future__ import annotations

import base64
import json

import pytest

from testing.kubernetes_api import Manifest
from testing.operator_process import OperatorProcess
from testing.samples import dataset, inference_service, prepared, trained, training_job, variant
from testing.simulated_controllers import World
from testing.waiting import eventually

pytestmark = [pytest.mark.feature("O6"), pytest.mark.usefixtures("operator")]


def test_preparation_with_texts_beyond_every_limit_is_ready(world: World) -> None:
    """Keys of an object store have up to 1,024 characters, and a warning may list many of them."""
    names = [f"{'deep/' * 80}{end}" for end in ("daisies", "roses")]
    result = prepared() | {
        "classes": [{"name": name, "train": 16, "validation": 4} for name in names],
        "warnings": [f"exclude matches no image: {'x' * 1200}", "half a pair: \ud800"],
    }
    world.create(dataset())
    world.succeed("flowers-prepare", json.dumps(result))
    world.wait_for_condition("datasets", "flowers", "Ready", "True")
    status = world.wait_for("datasets", "flowers")["status"]
    assert [len(entry["name"]) for entry in status["classes"]] == [256, 256]
    assert status["warnings"][0].endswith("x…") and len(status["warnings"][0]) == 1024


def test_training_from_a_long_address_is_complete(ready_world: World) -> None:
    uri = f"s3://models/{'deep/' * 160}model"
    ready_world.create(training_job(initialModel={"uri": uri}))
    ready_world.succeed("flowers-train", trained() | {"reason": "Trained at last!"})
    ready_world.wait_for_condition("trainingjobs", "flowers", "Complete", "True", reason="Trainedatlast")
    shown = ready_world.wait_for("trainingjobs", "flowers")["status"]["initialModel"]
    assert len(shown) == 512 and uri.startswith(shown[:-1])


def test_refused_status_is_replaced_by_one_that_reports_it(world: World, operator: OperatorProcess) -> None:
    world.create(dataset())
    world.succeed("flowers-prepare", prepared() | {"images": 10**30})
    ready = world.wait_for_condition("datasets", "flowers", "Ready", "False", reason="StatusRefused")
    assert "status.images" in ready["message"]
    shown = world.wait_for("datasets", "flowers")
    assert shown["status"]["observedGeneration"] == shown["metadata"]["generation"]
    assert "the status of Dataset flowers is refused" in operator.log_text()


def test_injected_proxy_hides_neither_result_nor_progress(world: World) -> None:
    """The kubelet sorts the statuses of containers by name, so those of istio-proxy come first."""
    world.create(dataset())
    pod = world.start_pod("flowers-prepare")
    proxy = {"name": "istio-proxy", "image": "proxy", "imageID": "", "ready": True, "restartCount": 0}
    ours = {"name": "trainer", "image": "trainer", "imageID": "", "ready": False, "restartCount": 0}
    result = {"terminated": {"exitCode": 0, "message": json.dumps(prepared())}}

    def report(phase: str, state: Manifest) -> None:
        containers = [proxy | {"state": state}, ours | {"state": result}]
        world.patch("pods", pod, {"status": {"phase": phase, "containerStatuses": containers}}, subresource="status")

    report("Running", {"running": {}})
    waiting = world.wait_for_condition("datasets", "flowers", "Ready", "False", reason="SidecarRunning")
    assert "istio-proxy" in waiting["message"]
    report("Succeeded", {"terminated": {"exitCode": 0}})
    world.complete_job("flowers-prepare")
    world.wait_for_condition("datasets", "flowers", "Ready", "True")


def test_annotations_of_children_that_people_changed_stop_nothing(ready_world: World) -> None:
    ready_world.create(training_job())
    pod = ready_world.start_pod("flowers-train")
    ready_world.wait_for("trainingjobs", "flowers", lambda job: job["status"].get("datasets"))
    ready_world.patch("jobs", "flowers-train", {"metadata": {"annotations": {"bloomery.dev/datasets": "none"}}})
    ready_world.patch("pods", pod, {"metadata": {"labels": {"batch.kubernetes.io/job-completion-index": "first"}}})
    ready_world.succeed("flowers-train", trained(), pod=pod)
    ready_world.wait_for_condition("trainingjobs", "flowers", "Complete", "True")
    assert ready_world.wait_for("trainingjobs", "flowers")["status"]["datasets"][0]["name"] == "flowers"


@pytest.mark.parametrize("time", ["soon", "2099-01-01T00:00:00Z"])
def test_retirement_that_people_changed_is_written_again(world: World, time: str) -> None:
    world.create(inference_service(variants=[variant("v1", 100)]))
    first = world.revision("flowers", "v1")
    world.set_ready(first, 1)
    world.wait_for_weights("flowers", {first: 100})
    world.patch("inferenceservices", "flowers", {"spec": {"variants": [variant("v1", 100, model="s3://models/b")]}})
    (second,) = eventually(lambda: set(world.deployments_of("flowers", "v1")) - {first}, "a second revision")
    world.set_ready(second, 1)
    world.wait_for_weights("flowers", {second: 100})
    # The gateway has not seen the route, so the revision drains for a minute.
    world.wait_for("deployments", first, lambda d: "bloomery.dev/retired-at" in d["metadata"]["annotations"])
    world.patch("deployments", first, {"metadata": {"annotations": {"bloomery.dev/retired-at": time}}})
    retired = "bloomery.dev/retired-at"
    world.wait_for("deployments", first, lambda d: d["metadata"]["annotations"].get(retired, time) != time)


@pytest.mark.feature("S13")
def test_removed_key_is_revoked_although_the_storage_secret_is_missing(world: World) -> None:
    world.create(inference_service(variants=[variant("v1", 100)]))
    world.set_ready(world.revision("flowers", "v1"), 1)
    world.wait_for("secrets", "flowers-api-key-digests", lambda secret: "default" in secret["data"])
    world.delete("secrets", "bloomery-storage")
    another = [variant("v1", 100, model="s3://models/another")]
    world.patch("inferenceservices", "flowers", {"spec": {"variants": another}})
    world.wait_for_condition("inferenceservices", "flowers", "VariantsReady", "False", reason="SecretNotFound")
    added = base64.b64encode(b"of-alice").decode()
    world.patch("secrets", "flowers-api-key", {"data": {"default": None, "alice": added}})
    world.wait_for("secrets", "flowers-api-key-digests", lambda secret: set(secret["data"]) == {"alice"})


@pytest.mark.feature("T16")
def test_job_that_is_not_registered_outlives_its_time_to_live(ready_world: World) -> None:
    ready_world.create(training_job(ttlSecondsAfterFinished=0))
    ready_world.succeed("flowers-train", trained(version=None))
    ready_world.wait_for("jobs", "flowers-register")
    ready_world.wait_for_condition("trainingjobs", "flowers", "Complete", "True", reason="NotRegistered")
    ready_world.succeed("flowers-register", trained("4"))
    ready_world.wait_until_gone("trainingjobs", "flowers")
