"""Services on clusters without spare capacity: old pods end before new ones start."""

from __future__ import annotations

import pytest

from testing.samples import inference_service, variant
from testing.simulated_controllers import World
from testing.waiting import eventually

pytestmark = [pytest.mark.usefixtures("operator"), pytest.mark.feature("S2")]


def replicas_of(world: World, name: str) -> int:
    replicas: int = world.wait_for("deployments", name)["spec"]["replicas"]
    return replicas


def serve(world: World, **fields: object) -> tuple[str, str]:
    """Make a service with a running pod; return its revision and the pod."""
    world.create(inference_service(variants=[variant("v1", 100)], **fields))
    first = world.revision("flowers", "v1")
    pod = world.run_server(first, ip="127.9.9.9")
    world.set_ready(first, 1)
    world.wait_for_weights("flowers", {first: 100})
    world.accept_route("flowers")
    return first, pod


def test_a_new_model_waits_until_the_former_pods_are_gone(world: World) -> None:
    first, pod = serve(world, strategy="Recreate")
    assert world.wait_for("deployments", first)["spec"]["strategy"] == {"type": "Recreate"}
    world.patch("inferenceservices", "flowers", {"spec": {"variants": [variant("v1", 100, model="s3://models/next")]}})
    (second,) = eventually(lambda: set(world.deployments_of("flowers", "v1")) - {first}, "another revision")
    assert replicas_of(world, second) == 0
    world.wait_for("deployments", first, lambda d: d["spec"]["replicas"] == 0)
    waiting = world.wait_for_condition("inferenceservices", "flowers", "VariantsReady", "False", reason="Deploying")
    assert "waits for 1 former pods to end" in waiting["message"]
    world.set_ready(first, 0)
    world.wait_for("inferenceservices", "flowers", lambda m: m["status"]["ready"] == "0/1")
    assert replicas_of(world, second) == 0, "the pod is still on its node"

    world.delete("pods", pod)
    world.wait_for("deployments", second, lambda d: d["spec"]["replicas"] == 1)
    world.set_ready(second, 1)
    world.wait_for_weights("flowers", {second: 100})
    world.accept_route("flowers")
    world.wait_for_condition("inferenceservices", "flowers", "Ready", "True")
    assert replicas_of(world, first) == 0


def test_the_strategy_of_a_running_service_may_change(world: World) -> None:
    first, _ = serve(world)
    assert world.wait_for("deployments", first)["spec"]["strategy"]["type"] == "RollingUpdate"
    world.patch("inferenceservices", "flowers", {"spec": {"strategy": "Recreate"}})
    world.wait_for("deployments", first, lambda d: d["spec"]["strategy"] == {"type": "Recreate"})
    world.patch("inferenceservices", "flowers", {"spec": {"strategy": None}})
    world.wait_for("deployments", first, lambda d: d["spec"]["strategy"]["type"] == "RollingUpdate")
