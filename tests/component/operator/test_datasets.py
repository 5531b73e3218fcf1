"""Datasets: status of a preparation that succeeds, fails, changes or is blocked."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest

from testing.kubernetes_api import condition_of
from testing.samples import dataset, prepared
from testing.simulated_controllers import World
from testing.waiting import eventually

pytestmark = pytest.mark.usefixtures("operator")

TOO_FEW = {"error": {"reason": "TooFewImages", "message": "Class 'roses' has 12 images; 20 are needed."}}


def test_a_failed_preparation_says_why_in_the_pods_own_words(world: World) -> None:
    world.create(dataset())
    world.fail("flowers-prepare", TOO_FEW, exit_code=3)
    ready = world.wait_for_condition("datasets", "flowers", "Ready", "False", reason="TooFewImages")
    assert ready["message"] == "Class 'roses' has 12 images; 20 are needed."
    assert world.wait_for("datasets", "flowers")["status"]["phase"] == "Failed"


def test_a_fixed_spec_is_prepared_again_after_a_failure(world: World) -> None:
    world.create(dataset())
    world.fail("flowers-prepare", TOO_FEW, exit_code=3)
    world.wait_for_condition("datasets", "flowers", "Ready", "False", reason="TooFewImages")
    failed = world.wait_for("jobs", "flowers-prepare")
    world.patch("datasets", "flowers", {"spec": {"rules": {"minImagesPerClass": 10}}})
    world.wait_for("jobs", "flowers-prepare", lambda job: job["metadata"]["uid"] != failed["metadata"]["uid"])
    _remove_pods(world)
    world.succeed("flowers-prepare", prepared())
    world.wait_for_condition("datasets", "flowers", "Ready", "True")


def test_more_memory_restarts_a_failed_preparation_but_no_finished_one(world: World) -> None:
    world.create(dataset())
    world.fail("flowers-prepare", "Killed", exit_code=3)
    world.wait_for_condition("datasets", "flowers", "Ready", "False", reason="PodFailurePolicy")
    failed = world.wait_for("jobs", "flowers-prepare")["metadata"]["uid"]
    world.patch("datasets", "flowers", {"spec": {"resources": {"limits": {"memory": "8Gi"}}}})
    second = world.wait_for("jobs", "flowers-prepare", lambda job: job["metadata"]["uid"] != failed)
    assert second["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"] == "8Gi"
    _remove_pods(world)
    world.succeed("flowers-prepare", prepared())
    world.wait_for_condition("datasets", "flowers", "Ready", "True")

    changed = world.patch("datasets", "flowers", {"spec": {"resources": {"limits": {"memory": "9Gi"}}}})
    generation = changed["metadata"]["generation"]
    world.wait_for("datasets", "flowers", lambda d: d["status"]["observedGeneration"] == generation)
    assert world.wait_for("jobs", "flowers-prepare")["metadata"]["uid"] == second["metadata"]["uid"]
    assert world.wait_for("datasets", "flowers")["status"]["phase"] == "Ready"


@pytest.mark.feature("O6")
def test_an_unschedulable_preparation_moves_and_a_ready_one_stays(world: World) -> None:
    taint = {"key": "data", "operator": "Exists"}
    world.create(dataset(podTemplate={"nodeSelector": {"pool": "none"}}))
    first = world.wait_for("jobs", "flowers-prepare")
    assert first["spec"]["template"]["spec"]["nodeSelector"] == {"pool": "none"}
    other = {"nodeSelector": None, "tolerations": [taint]}
    world.patch("datasets", "flowers", {"spec": {"podTemplate": other}})
    second = world.wait_for("jobs", "flowers-prepare", lambda j: j["metadata"]["uid"] != first["metadata"]["uid"])
    template = second["spec"]["template"]["spec"]
    assert "nodeSelector" not in template
    assert taint in template["tolerations"]
    world.succeed("flowers-prepare", prepared())
    world.wait_for_condition("datasets", "flowers", "Ready", "True")

    changed = world.patch("datasets", "flowers", {"spec": {"podTemplate": None}})
    generation = changed["metadata"]["generation"]
    world.wait_for("datasets", "flowers", lambda d: d["status"]["observedGeneration"] == generation)
    assert world.wait_for("jobs", "flowers-prepare")["metadata"]["uid"] == second["metadata"]["uid"]


def test_a_changed_spec_makes_a_new_version_and_keeps_the_old(world: World) -> None:
    world.create(dataset())
    world.succeed("flowers-prepare", prepared("a"))
    world.wait_for_condition("datasets", "flowers", "Ready", "True")
    first = world.wait_for("jobs", "flowers-prepare")["metadata"]["uid"]

    world.patch("datasets", "flowers", {"spec": {"split": {"seed": 7}}})
    world.wait_for("jobs", "flowers-prepare", lambda job: job["metadata"]["uid"] != first)
    _remove_pods(world)
    world.succeed("flowers-prepare", prepared("b", images=50))
    both = world.wait_for("datasets", "flowers", lambda d: d["status"].get("version") == "b" * 64)["status"]
    assert [(v["ordinal"], v["version"][0], v["images"]) for v in both["versions"]] == [(2, "b", 50), (1, "a", 40)]
    assert both["images"] == 50
    assert both["phase"] == "Ready"


def test_return_to_an_earlier_spec_ends_the_others_preparation(world: World) -> None:
    world.create(dataset())
    world.succeed("flowers-prepare", prepared("a"))
    world.wait_for_condition("datasets", "flowers", "Ready", "True")
    first = world.wait_for("jobs", "flowers-prepare")["metadata"]["uid"]
    world.patch("datasets", "flowers", {"spec": {"split": {"seed": 7}}})
    world.wait_for("jobs", "flowers-prepare", lambda job: job["metadata"]["uid"] != first)
    world.patch("datasets", "flowers", {"spec": {"split": {"seed": 0}}})
    world.wait_until_gone("jobs", "flowers-prepare")
    status = world.wait_for("datasets", "flowers", lambda d: d["status"]["phase"] == "Ready")["status"]
    assert status["version"] == "a" * 64


def test_a_refresh_without_new_images_keeps_the_version(world: World) -> None:
    world.create(dataset())
    world.succeed("flowers-prepare", prepared("a"))
    world.wait_for_condition("datasets", "flowers", "Ready", "True")
    first = world.wait_for("jobs", "flowers-prepare")["metadata"]["uid"]
    world.patch("datasets", "flowers", {"metadata": {"annotations": {"bloomery.dev/refresh": "1"}}})
    world.wait_for("jobs", "flowers-prepare", lambda job: job["metadata"]["uid"] != first)
    _remove_pods(world)
    world.wait_for_condition("datasets", "flowers", "Ready", "False")
    world.succeed("flowers-prepare", prepared("a"))
    world.wait_for_condition("datasets", "flowers", "Ready", "True")
    assert len(world.wait_for("datasets", "flowers")["status"]["versions"]) == 1


def test_a_missing_storage_secret_is_reported_with_its_command(world: World) -> None:
    """The Dataset recovers once the Secret exists."""
    world.delete("secrets", "bloomery-storage")
    world.create(dataset())
    ready = world.wait_for_condition("datasets", "flowers", "Ready", "False", reason="SecretNotFound")
    assert f"kubectl create secret generic bloomery-storage -n {world.namespace}" in ready["message"]
    assert world.names("jobs") == set()
    world.make_storage_secret()
    world.succeed("flowers-prepare", prepared())
    world.wait_for_condition("datasets", "flowers", "Ready", "True")


def test_a_missing_source_secret_is_named(world: World) -> None:
    world.create(dataset(source={"uri": "s3://flowers/raw", "secretRef": {"name": "mine"}}))
    ready = world.wait_for_condition("datasets", "flowers", "Ready", "False", reason="SecretNotFound")
    assert "'mine'" in ready["message"]
    key = base64.b64encode(b"k").decode()
    world.create(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mine"}, "data": {"AWS_ACCESS_KEY_ID": key}}
    )
    job = world.wait_for("jobs", "flowers-prepare")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert {"prefix": "SOURCE_", "secretRef": {"name": "mine"}} in container["envFrom"]


@pytest.mark.feature("D18")
def test_a_missing_secret_of_captures_is_named(world: World) -> None:
    addition = {"uri": "s3://captures", "from": "Capture", "trustAbove": 0.99, "secretRef": {"name": "captures"}}
    world.create(dataset(append=[{"uri": "s3://flowers/more"}, addition]))
    ready = world.wait_for_condition("datasets", "flowers", "Ready", "False", reason="SecretNotFound")
    assert "'captures'" in ready["message"] and "spec.append[].secretRef" in ready["message"]
    world.create(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "captures"},
            "stringData": {"AWS_ACCESS_KEY_ID": "k"},
        }
    )
    job = world.wait_for("jobs", "flowers-prepare")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert {"prefix": "APPEND_1_", "secretRef": {"name": "captures"}} in container["envFrom"]


@pytest.mark.parametrize("name", ["../configmaps/kube-root-ca.crt", "mine?watch=true", "花"])
def test_a_source_secret_of_an_impossible_name_is_not_asked_for(name: str, world: World) -> None:
    world.create(dataset(source={"uri": "s3://flowers/raw", "secretRef": {"name": name}}))
    ready = world.wait_for_condition("datasets", "flowers", "Ready", "False", reason="SecretNotFound")
    assert repr(name) in ready["message"]


def test_a_foreign_job_is_not_adopted(world: World) -> None:
    container = {"name": "c", "image": "example"}
    template = {"spec": {"containers": [container], "restartPolicy": "Never"}}
    foreign = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "flowers-prepare"},
        "spec": {"template": template},
    }
    before = world.create(foreign)
    world.create(dataset())
    ready = world.wait_for_condition("datasets", "flowers", "Ready", "False", reason="NameTaken")
    assert "'flowers-prepare'" in ready["message"]
    after = world.wait_for("jobs", "flowers-prepare")
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
    world.delete("jobs", "flowers-prepare")
    world.wait_for("jobs", "flowers-prepare", lambda job: job["metadata"].get("ownerReferences"))


def test_an_unreadable_result_is_reported_and_stops_nothing(world: World) -> None:
    world.create(dataset())
    world.succeed("flowers-prepare", "done.")
    ready = world.wait_for_condition("datasets", "flowers", "Ready", "False", reason="ResultLost")
    assert "bloomery.dev/refresh" in ready["message"]


def test_a_pod_that_gets_no_image_is_reported_while_it_waits(world: World) -> None:
    world.create(dataset())
    pod = world.start_pod("flowers-prepare")
    waiting = {"reason": "ImagePullBackOff", "message": "not found: example/trainer:1"}
    world.set_pod(pod, {"phase": "Pending"}, {"waiting": waiting})
    ready = world.wait_for_condition("datasets", "flowers", "Ready", "False", reason="ImageNotAvailable")
    assert "example/trainer:1" in ready["message"]


def test_a_deleted_job_of_a_finished_dataset_is_not_made_again(world: World) -> None:
    world.create(dataset())
    world.succeed("flowers-prepare", prepared())
    world.wait_for_condition("datasets", "flowers", "Ready", "True")
    world.delete("jobs", "flowers-prepare")
    _remove_pods(world)
    changed = world.patch("datasets", "flowers", {"spec": {"description": "seen"}})
    generation = changed["metadata"]["generation"]
    seen = world.wait_for("datasets", "flowers", lambda d: d["status"]["observedGeneration"] == generation)
    assert condition_of(seen, "Ready")["status"] == "True"
    assert world.names("jobs") == set()


def _remove_pods(world: World) -> None:
    """Remove the pods of Jobs that are gone, as the garbage collector would."""
    for name in world.names("pods"):
        world.delete("pods", name)
    eventually(lambda: not world.names("pods"), "no pods")


@pytest.mark.feature("S23")
@pytest.mark.parametrize(("version", "ordinals"), [("a", [1]), ("b", [2, 1])], ids=["unchanged", "changed"])
def test_a_refresh_by_schedule_makes_a_version_of_changed_images_only(
    version: str, ordinals: list[int], world: World
) -> None:
    world.create(dataset(refresh={"schedule": "0 0 * * *"}))
    world.succeed("flowers-prepare", prepared("a"))
    world.wait_for_condition("datasets", "flowers", "Ready", "True")
    first = world.wait_for("jobs", "flowers-prepare")["metadata"]["uid"]
    # As if the operator had been away for years.
    missed = {"status": {"lastRefreshTime": "2020-01-01T00:00:00Z"}}
    world.patch("datasets", "flowers", missed, subresource="status")
    second = world.wait_for("jobs", "flowers-prepare", lambda job: job["metadata"]["uid"] != first)
    world.wait_for_condition("datasets", "flowers", "Ready", "False")
    _remove_pods(world)
    world.succeed("flowers-prepare", prepared(version))
    world.wait_for_condition("datasets", "flowers", "Ready", "True")
    status = world.wait_for("datasets", "flowers")["status"]
    assert [entry["ordinal"] for entry in status["versions"]] == ordinals
    assert status["lastRefreshTime"] == datetime.now(UTC).strftime("%Y-%m-%dT00:00:00Z")
    assert world.wait_for("jobs", "flowers-prepare")["metadata"]["uid"] == second["metadata"]["uid"]


@pytest.mark.feature("O6")
def test_requests_above_limits_are_refused_in_the_api_servers_words(world: World) -> None:
    world.create(dataset(resources={"requests": {"cpu": "1500m"}, "limits": {"cpu": 1}}))
    ready = world.wait_for_condition("datasets", "flowers", "Ready", "False", reason="Refused")
    assert "must be less than or equal to cpu limit" in ready["message"]
    world.patch("datasets", "flowers", {"spec": {"resources": {"requests": {"cpu": "500m"}}}})
    world.wait_for("jobs", "flowers-prepare")
