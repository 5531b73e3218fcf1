"""Lifecycle of a service: stop and start, autoStop, autoscalers, disruption budgets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from testing.kubernetes_api import Manifest
from testing.operator_process import OperatorProcess
from testing.samples import inference_service, variant
from testing.simulated_controllers import World

NewOperator = Callable[..., OperatorProcess]
STARTED_AT = "bloomery.dev/started-at"


def serving(world: World, *, weight: int = 100, name: str = "v1", extra: Manifest | None = None, **fields: Any) -> str:
    """Make a service that answers; return its revision."""
    world.create(inference_service(variants=[variant(name, weight, **(extra or {}))], **fields))
    revision = world.revision("flowers", name)
    replicas = world.wait_for("deployments", revision)["spec"]["replicas"]
    world.set_ready(revision, replicas)
    world.wait_for_weights("flowers", {revision: 100})
    world.accept_route("flowers")
    world.wait_for_condition("inferenceservices", "flowers", "Ready", "True")
    return revision


def wait_for_replicas(world: World, revision: str, replicas: int) -> None:
    world.wait_for("deployments", revision, lambda d: d["spec"].get("replicas") == replicas)


def change(world: World, **spec: Any) -> None:
    world.patch("inferenceservices", "flowers", {"spec": spec})


@pytest.mark.feature("S5")
@pytest.mark.usefixtures("operator")
def test_a_variant_removed_during_a_stop_has_no_pods(world: World) -> None:
    world.create(inference_service(variants=[variant("v1", 60), variant("v2", 40)]))
    names = {name: world.revision("flowers", name) for name in ("v1", "v2")}
    for name in names.values():
        world.set_ready(name, 1)
    world.wait_for_weights("flowers", {names["v1"]: 60, names["v2"]: 40})
    change(world, stopped=True, variants=[variant("v1", 100)])
    wait_for_replicas(world, names["v1"], 0)
    wait_for_replicas(world, names["v2"], 0)


@pytest.mark.feature("S5")
@pytest.mark.usefixtures("operator")
def test_a_stopped_service_keeps_its_path_and_starts_again(world: World) -> None:
    """It has no pods meanwhile."""
    revision = serving(world, replicas=2)
    change(world, stopped=True)
    wait_for_replicas(world, revision, 0)
    stopped = world.wait_for_condition("inferenceservices", "flowers", "Ready", "True", reason="Stopped")
    assert stopped["message"] == "Stopped by spec.stopped; false starts it again."
    assert world.wait_for("inferenceservices", "flowers")["status"]["phase"] == "Stopped"
    assert world.weights("flowers") == {revision: 100}
    world.set_ready(revision, 0)
    change(world, stopped=False)
    wait_for_replicas(world, revision, 2)
    world.set_ready(revision, 2)
    world.wait_for_condition("inferenceservices", "flowers", "Ready", "True")


@pytest.mark.feature("S8", "S15")
@pytest.mark.usefixtures("operator")
def test_an_autoscaler_takes_the_number_of_pods_over_and_keeps_it(world: World) -> None:
    revision = serving(world, extra={"autoscaling": {"min": 2, "max": 8}})
    scaler = world.wait_for("horizontalpodautoscalers", revision)
    assert (scaler["spec"]["minReplicas"], scaler["spec"]["maxReplicas"]) == (2, 8)
    assert scaler["spec"]["scaleTargetRef"]["name"] == revision
    wait_for_replicas(world, revision, 2)
    # As the autoscaler's controller does.
    world.patch("deployments", revision, {"spec": {"replicas": 5}}, subresource="scale")
    world.patch("inferenceservices", "flowers", {"metadata": {"annotations": {"bloomery.dev/refresh": "1"}}})
    refreshed = {"bloomery.dev/refresh": "1"}
    world.wait_for("deployments", revision, lambda d: d["spec"]["template"]["metadata"].get("annotations") == refreshed)
    wait_for_replicas(world, revision, 5)
    change(world, stopped=True)
    wait_for_replicas(world, revision, 0)
    change(world, stopped=False)
    wait_for_replicas(world, revision, 2)
    change(world, variants=[variant("v1", 100, replicas=1)])
    wait_for_replicas(world, revision, 1)
    world.wait_until_gone("horizontalpodautoscalers", revision)


@pytest.mark.feature("S15")
@pytest.mark.usefixtures("operator")
def test_metrics_that_no_autoscaler_knows_are_refused_in_words(world: World) -> None:
    metrics = [{"type": "Resource", "resource": {"nam": "cpu"}}]
    world.create(inference_service(variants=[variant("v1", 100, autoscaling={"max": 3, "metrics": metrics})]))
    refused = world.wait_for_condition("inferenceservices", "flowers", "Ready", "False", reason="Refused")
    assert "resource.nam" in refused["message"]


@pytest.mark.feature("S15")
@pytest.mark.usefixtures("operator")
def test_kubectl_scale_moves_the_variants_without_own_replicas(world: World) -> None:
    revision = serving(world)
    world.patch("inferenceservices", "flowers", {"spec": {"replicas": 3}}, subresource="scale")
    wait_for_replicas(world, revision, 3)


@pytest.mark.feature("S15")
@pytest.mark.usefixtures("operator")
def test_a_drain_evicts_one_pod_at_a_time(world: World) -> None:
    """The pods spread over the nodes."""
    revision = serving(world)
    budget = world.wait_for("poddisruptionbudgets", "flowers")["spec"]
    template = world.wait_for("deployments", revision)["spec"]["template"]
    assert budget["maxUnavailable"] == 1
    assert budget["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    spread = [constraint["topologyKey"] for constraint in template["spec"]["topologySpreadConstraints"]]
    assert spread == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
