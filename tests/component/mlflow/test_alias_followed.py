"""Moving an alias in MLflow deploys another version: the operator with a real registry and a real API server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from testing.kubernetes_api import Manifest, condition_of
from testing.operator_process import OperatorProcess, running
from testing.samples import inference_service, variant
from testing.servers import MlflowServer
from testing.simulated_controllers import World
from testing.waiting import eventually
from tests.component.mlflow.conftest import Registry

FOLLOWED_SECONDS = 30


@pytest.fixture
def registry(mlflow: MlflowServer, tmp_path: Path) -> Registry:
    made = Registry(mlflow.client(), f"flowers-{tmp_path.name}")
    made.champion(made.add())
    return made


@pytest.fixture
def served(world: World, mlflow: MlflowServer) -> Callable[..., str]:
    """Serve a model of the registry; give its first revision once it has the traffic."""

    def serve(reference: str, *, spec: Manifest | None = None, **model: str) -> str:
        world.use_mlflow(mlflow.uri)
        source = {"mlflow": reference, **model}
        world.create(inference_service(variants=[variant("v1", 100) | {"model": source}], **(spec or {})))
        first = world.revision("flowers", "v1")
        world.set_ready(first, 1)
        world.wait_for_weights("flowers", {first: 100})
        world.accept_route("flowers")
        return first

    return serve


def another_revision(world: World, *known: str) -> str:
    def other_revisions() -> set[str]:
        return set(world.deployments_of("flowers", "v1")) - set(known)

    (another,) = eventually(other_revisions, "the new version is deployed", seconds=FOLLOWED_SECONDS)
    return another


@pytest.mark.feature("S11", "S12")
def test_a_followed_alias_deploys_its_version_and_tags_it_in_mlflow(
    world: World, own_operator: OperatorProcess, registry: Registry, served: Callable[..., str]
) -> None:
    """The tag names the service."""
    served_by = f"bloomery.dev/served-by.bloomery.{world.namespace}.flowers"
    with running(own_operator):
        first = served(f"models:/{registry.name}@champion", update="Follow")
        eventually(lambda: registry.tags("1").get(served_by) == "v1", "MLflow knows who serves version 1")
        shown = world.wait_for("inferenceservices", "flowers")["status"]["variants"][0]
        assert (shown["model"], shown["trainingJob"]) == (f"{registry.name}/1", "elsewhere/flowers")
        assert (shown["dataset"], shown["datasetVersion"]) == ("flowers", "a" * 64)
        assert shown["digest"] == "sha256:" + "1" * 64

        registry.champion(registry.add())
        second = another_revision(world, first)
        assert world.weights("flowers") == {first: 100}
        world.set_ready(second, 1)
        world.wait_for_weights("flowers", {second: 100})
        eventually(lambda: registry.tags("2").get(served_by) == "v1", "MLflow knows who serves version 2")
        world.delete("inferenceservices", "flowers")
        eventually(lambda: served_by not in registry.tags("2"), "the tag goes with the service")
        eventually(lambda: served_by not in registry.tags("1"), "and from the version that it served before")


def gain_traffic(world: World, deployment: str, weights: dict[str, int]) -> None:
    """Keep a Deployment ready until the weights are as they should be: each annotation is a new generation to it."""

    def has_weights() -> bool:
        world.set_ready(deployment, 1)
        return world.weights("flowers") == weights

    eventually(has_weights, f"weights {weights}")


@pytest.mark.feature("S10", "S11")
def test_a_followed_alias_rolls_out_by_the_steps(
    world: World, own_operator: OperatorProcess, registry: Registry, served: Callable[..., str]
) -> None:
    """After an abort, the next version of the alias is tried."""
    plan = {"steps": [10], "interval": "1h", "abortOn": {"errorRate": 0.5}}
    with running(own_operator):
        first = served(f"models:/{registry.name}@champion", update="Follow", spec={"rollout": plan})
        registry.champion(registry.add())
        second = another_revision(world, first)
        gain_traffic(world, second, {first: 90, second: 10})
        world.set_ready(second, 0, unavailable_since="2026-01-01T00:00:00Z")
        world.wait_for_weights("flowers", {first: 100, second: 0})
        world.wait_for_condition("inferenceservices", "flowers", "Progressing", "False", reason="RolloutAborted")
        registry.champion(registry.add())
        third = another_revision(world, first, second)
        gain_traffic(world, third, {first: 90, third: 10})


@pytest.mark.feature("S11")
def test_an_alias_that_is_pinned_stays_what_it_meant(
    world: World, own_operator: OperatorProcess, registry: Registry, served: Callable[..., str]
) -> None:
    with running(own_operator):
        first = served(f"models:/{registry.name}@champion")
        registry.champion(registry.add())
        # A restarted operator does not ask the registry either.
        own_operator.kill()
        own_operator.start()
        world.patch("inferenceservices", "flowers", {"spec": {"replicas": 2}})
        world.wait_for("deployments", first, lambda d: d["spec"]["replicas"] == 2)
        assert world.deployments_of("flowers", "v1") == [first]


@pytest.mark.feature("S11")
def test_an_unreachable_registry_is_reported_and_changes_nothing_that_runs(
    world: World, own_operator: OperatorProcess, registry: Registry, served: Callable[..., str]
) -> None:
    with running(own_operator):
        first = served(f"models:/{registry.name}@champion", update="Follow")
        world.wait_for("deployments", first, lambda d: "bloomery.dev/served-tag" in d["metadata"]["annotations"])
        # An annotation is a new generation to a Deployment's controller.
        world.set_ready(first, 1)
        world.wait_for_condition("inferenceservices", "flowers", "Ready", "True")
        world.use_mlflow("http://127.0.0.1:9")
        ready = world.wait_for_condition(
            "inferenceservices", "flowers", "VariantsReady", "True", reason="RegistryUnreachable"
        )
        assert "MLflow could not resolve" in ready["message"]
        assert condition_of(world.get("inferenceservices", "flowers"), "Ready")["status"] == "True"
        assert world.weights("flowers") == {first: 100}


@pytest.mark.feature("S11")
def test_a_model_that_the_registry_does_not_have_is_named(
    world: World, own_operator: OperatorProcess, registry: Registry, mlflow: MlflowServer
) -> None:
    world.use_mlflow(mlflow.uri)
    with running(own_operator):
        reference = f"models:/{registry.name}@nobody"
        world.create(inference_service(variants=[variant("v1", 100) | {"model": {"mlflow": reference}}]))
        missing = world.wait_for_condition("inferenceservices", "flowers", "Ready", "False", reason="ModelNotFound")
        assert reference in missing["message"]
        # It is deployed as soon as it is there.
        mlflow.client().set_registered_model_alias(registry.name, "nobody", "1")
        world.revision("flowers", "v1")
