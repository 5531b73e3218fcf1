"""Pods of services and of TensorBoards across upgrades of the operator and changes of its settings."""

from __future__ import annotations

from typing import Any

import pytest

from testing.kubernetes_api import Manifest
from testing.operator_process import OperatorProcess, running
from testing.samples import inference_service, training_job, variant
from testing.simulated_controllers import World
from testing.waiting import eventually

RECORD = ("bloomery.dev/spec-hash", "bloomery.dev/pod-template")


def serve(world: World, name: str, **fields: Any) -> str:
    """Make a service with one ready pod; return its revision."""
    world.create(inference_service(name, variants=[variant("v1", 100)], **fields))
    revision = world.revision(name, "v1")
    world.set_ready(revision, 1)
    world.wait_for_weights(name, {revision: 100})
    world.accept_route(name)
    world.wait_for_condition("inferenceservices", name, "Ready", "True")
    return revision


def change(world: World, name: str, **spec: Any) -> None:
    world.patch("inferenceservices", name, {"spec": spec})


def deployment(world: World, name: str) -> Manifest:
    return world.wait_for("deployments", name)


def image_of(manifest: Manifest) -> str:
    image: str = manifest["spec"]["template"]["spec"]["containers"][0]["image"]
    return image


def pass_a_marker(world: World, name: str) -> None:
    """Wait until a service that came last has its Deployment: what came before has been looked at, too."""
    world.create(inference_service(name, variants=[variant("v1", 100)]))
    world.revision(name, "v1")


def forget_the_record(world: World, revision: str, *, image: str) -> None:
    """Change a Deployment into one of an earlier version, which recorded nothing and had another image."""
    container = {"name": "server", "image": image}
    annotations: dict[str, None] = dict.fromkeys(RECORD)
    world.patch("deployments", revision, {"metadata": {"annotations": annotations}})
    headers = {"Content-Type": "application/strategic-merge-patch+json"}
    path = f"/apis/apps/v1/namespaces/{world.namespace}/deployments/{revision}"
    change = {"spec": {"template": {"spec": {"containers": [container]}}}}
    assert world.client.patch(path, json=change, headers=headers).status_code == 200
    world.set_ready(revision, 1)


@pytest.mark.feature("O4")
def test_another_image_reaches_a_service_with_its_next_change_of_pods(
    own_operator: OperatorProcess, world: World
) -> None:
    with running(own_operator):
        revision = serve(world, "flowers")
        before = deployment(world, revision)
    own_operator.set("BLOOMERY_SERVING_IMAGE", "example/serving:2")
    own_operator.set("BLOOMERY_STORAGE_SECRET", "bloomery-storage")
    with running(own_operator):
        change(world, "flowers", displayName="Blumen", description="Fuenf Arten.")
        pass_a_marker(world, "marker")
        world.wait_for("inferenceservices", "flowers", lambda m: m["status"]["observedGeneration"] == 2)
        after = deployment(world, revision)
        assert after["metadata"]["generation"] == before["metadata"]["generation"]
        assert image_of(after) == "example/serving:1"
        shown = world.wait_for("inferenceservices", "flowers")["status"]["variants"][0]
        assert shown["image"] == "example/serving:1"
        new = world.revision("marker", "v1")
        assert image_of(deployment(world, new)) == "example/serving:2"

        change(world, "flowers", variants=[variant("v1", 100, resources={"limits": {"memory": "3Gi"}})])
        world.wait_for("deployments", revision, lambda d: image_of(d) == "example/serving:2")


@pytest.mark.feature("O4")
def test_an_earlier_versions_deployment_keeps_its_pods_until_its_next_change(
    own_operator: OperatorProcess, world: World
) -> None:
    with running(own_operator):
        revision = serve(world, "flowers")
    forget_the_record(world, revision, image="example/serving:0")
    before = deployment(world, revision)
    with running(own_operator):
        pass_a_marker(world, "marker")
        recorded = world.wait_for("deployments", revision, lambda d: RECORD[1] in d["metadata"]["annotations"])
        assert recorded["spec"] == before["spec"]
        # A restart by hand is not undone.
        restarted = {"kubectl.kubernetes.io/restartedAt": "2026-05-01T12:00:00Z"}
        world.patch("deployments", revision, {"spec": {"template": {"metadata": {"annotations": restarted}}}})
        change(world, "flowers", displayName="Blumen")
        pass_a_marker(world, "second-marker")
        template = deployment(world, revision)["spec"]["template"]
        assert template["metadata"]["annotations"] == restarted
        # A new value of the annotation creates the pods again.
        world.patch("inferenceservices", "flowers", {"metadata": {"annotations": {"bloomery.dev/refresh": "1"}}})
        world.wait_for("deployments", revision, lambda d: image_of(d) == "example/serving:1")


@pytest.mark.feature("O4")
def test_a_spec_that_changed_during_the_upgrade_is_not_lost(own_operator: OperatorProcess, world: World) -> None:
    with running(own_operator):
        revision = serve(world, "flowers")
    forget_the_record(world, revision, image="example/serving:0")
    change(world, "flowers", variants=[variant("v1", 100, resources={"limits": {"memory": "3Gi"}})])
    with running(own_operator):
        world.wait_for(
            "deployments",
            revision,
            lambda d: d["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"] == "3Gi",
        )


@pytest.mark.feature("O4")
def test_an_upgrade_may_reach_all_services_one_at_a_time(own_operator: OperatorProcess, world: World) -> None:
    names = ("one", "two", "three")
    with running(own_operator):
        revisions = {serve(world, name) for name in names}
    own_operator.set("BLOOMERY_SERVING_IMAGE", "example/serving:2")
    own_operator.set("BLOOMERY_SERVING_UPDATES", "1")
    with running(own_operator):
        ready: set[str] = set()
        for number in range(len(names)):
            updated = wait_for_another(world, revisions, ready)
            pass_a_marker(world, f"marker-{number}")
            # Its new pod is not ready yet, so no other one follows.
            assert with_image(world, revisions, "example/serving:2") == ready | updated
            world.set_ready(*updated, 1)
            ready |= updated


def wait_for_another(world: World, revisions: set[str], known: set[str]) -> set[str]:
    """Wait until one more Deployment has the new image; return it."""
    return eventually(lambda: with_image(world, revisions, "example/serving:2") - known, "another one is updated")


def with_image(world: World, revisions: set[str], image: str) -> set[str]:
    return {name for name in revisions if image_of(deployment(world, name)) == image}


@pytest.mark.feature("O4", "T12")
def test_a_tensorboard_stays_as_it_is_until_it_is_closed(own_operator: OperatorProcess, world: World) -> None:
    pod_template = {"tolerations": [{"key": "gpu", "operator": "Exists"}], "nodeSelector": {"pool": "gpu"}}
    with running(own_operator):
        world.create(training_job(tensorboard=True, podTemplate=pod_template))
        before = deployment(world, "flowers-tensorboard")
        template = before["spec"]["template"]["spec"]
        assert (template["nodeSelector"], template["tolerations"]) == (
            pod_template["nodeSelector"],
            pod_template["tolerations"],
        )
    own_operator.set("BLOOMERY_TRAINER_IMAGE", "example/trainer:2")
    with running(own_operator):
        world.create(training_job("marker", tensorboard=True))
        new = deployment(world, "marker-tensorboard")
        assert image_of(new) == "example/trainer:2"
        after = deployment(world, "flowers-tensorboard")
        assert after["metadata"]["generation"] == before["metadata"]["generation"]


@pytest.mark.feature("S2", "S12")
def test_texts_of_a_service_reach_its_pods_without_a_restart(own_operator: OperatorProcess, world: World) -> None:
    with running(own_operator):
        revision = serve(world, "flowers", displayName="Blumne")
        before = deployment(world, revision)
        volumes = {v["name"]: v for v in before["spec"]["template"]["spec"]["volumes"]}
        name = volumes["about"]["configMap"]["name"]
        assert '"Blumne"' in world.wait_for("configmaps", name)["data"]["about.json"]
        change(world, "flowers", displayName="Blumen")
        world.wait_for("configmaps", name, lambda c: '"Blumen"' in c["data"]["about.json"])
        assert deployment(world, revision)["metadata"]["generation"] == before["metadata"]["generation"]
