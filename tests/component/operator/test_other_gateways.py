"""Clusters with another gateway than Envoy Gateway, with older versions of the Gateway API, and with none any more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from dev.versions import ENVOY_GATEWAY
from testing.api_server import ApiServer, grant_rights, install_crds, install_kinds, private_apiserver
from testing.gateway_api import gateway_api_crds, go_module, install_gateway_api
from testing.operator_process import GATEWAY, OperatorProcess, running
from testing.samples import inference_service, variant
from testing.simulated_controllers import World
from testing.waiting import eventually
from tests.component.operator_fixtures import ENVOY_GATEWAY_CRDS

HOME = "operator-home"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ApiServer]:
    """Give an API server with routes, and without Envoy Gateway's kinds."""
    with private_apiserver(tmp_path) as server:
        install_kinds(server)
        install_gateway_api(server, "httproutes")
        yield server


def test_services_answer_without_retries_and_the_operator_says_so_once(
    server: ApiServer, program: Callable[[str], Path], tmp_path: Path
) -> None:
    rights = tmp_path / "operator-kubeconfig"
    grant_rights(server, rights, helm=program("helm"), release="other-gateways", home=HOME)
    operator = OperatorProcess(
        kubeconfig=rights, log=tmp_path / "operator.log", environment=GATEWAY | {"BLOOMERY_RESYNC_SECONDS": "2"}
    )
    with running(operator), server.http() as client:
        world = World(client, HOME)
        world.make_storage_secret()
        for name in ("one", "two"):
            world.create(inference_service(name, variants=[variant("v1", 100)]))
            world.set_ready(world.revision(name, "v1"), 1)
            world.accept_route(name)
            world.wait_for_condition("inferenceservices", name, "Ready", "True")
        operator.assert_calm()
        assert operator.log_text().count("BackendTrafficPolicy") == 1


def without_properties(source: Path, target: Path, *names: str) -> Path:
    """Write a CRD as an older version had it, without the properties of these names."""

    def strip(node: object) -> None:
        for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            strip(value)
        if isinstance(node, dict):
            for name in names:
                if isinstance(node.get("properties"), dict):
                    node["properties"].pop(name, None)
                if "rule" not in node and isinstance(node.get("x-kubernetes-validations"), list):
                    # Rules speak of the properties that are gone.
                    node.pop("x-kubernetes-validations")

    crd = yaml.safe_load(source.read_text(encoding="utf-8"))
    strip(crd)
    target.write_text(yaml.safe_dump(crd), encoding="utf-8")
    return target


@pytest.fixture
def old_server(tmp_path: Path) -> Iterator[ApiServer]:
    """Give an API server with the kinds of Gateway API 1.1 and Envoy Gateway 1.3, as far as routes show it."""
    routes = gateway_api_crds() / "gateway.networking.k8s.io_httproutes.yaml"
    policies = go_module(f"github.com/envoyproxy/gateway@{ENVOY_GATEWAY}") / ENVOY_GATEWAY_CRDS
    policies /= "gateway.envoyproxy.io_backendtrafficpolicies.yaml"
    with private_apiserver(tmp_path) as server:
        install_kinds(server)
        install_crds(server, without_properties(routes, tmp_path / "routes.yaml", "timeouts", "percent"))
        install_crds(server, without_properties(policies, tmp_path / "policies.yaml", "mergeType"))
        yield server


@pytest.mark.feature("O6")
def test_services_answer_with_an_older_gateway_api(
    old_server: ApiServer, program: Callable[[str], Path], tmp_path: Path
) -> None:
    """Their conditions name the features that it lacks."""
    rights = tmp_path / "operator-kubeconfig"
    grant_rights(old_server, rights, helm=program("helm"), release="old-gateways", home=HOME)
    operator = OperatorProcess(kubeconfig=rights, log=tmp_path / "operator.log", environment=GATEWAY)
    variants = [variant("v1", 100), variant("shadow", 0, mirrorPercent=25)]
    with running(operator), old_server.http() as client:
        world = World(client, HOME)
        world.make_storage_secret()
        world.create(inference_service(variants=variants))
        for name in ("v1", "shadow"):
            world.set_ready(world.revision("flowers", name), 1)
        world.accept_route("flowers")
        world.wait_for_condition("inferenceservices", "flowers", "Ready", "True")
        ready = world.wait_for_condition("inferenceservices", "flowers", "RouteReady", "True", reason="Accepted")
        assert "has no timeouts: the gateway's own time limits apply" in ready["message"]
        assert "has no percent: variants with a mirrorPercent below 100 get no copies" in ready["message"]
        rules = world.wait_for("httproutes", "flowers")["spec"]["rules"]
        # A mirror without its percentage would copy everything.
        assert [[entry["type"] for entry in rule["filters"]] for rule in rules] == [["URLRewrite"]] * 3
        assert world.names("backendtrafficpolicies") == set()
        # What comes after the route is done, too.
        first = world.revision("flowers", "v1")
        changed = [variant("v1", 100, model="s3://models/next"), variants[1]]
        world.patch("inferenceservices", "flowers", {"spec": {"variants": changed}})
        (second,) = eventually(lambda: set(world.deployments_of("flowers", "v1")) - {first}, "another revision")
        world.set_ready(second, 1)
        world.wait_for("deployments", first, lambda d: "bloomery.dev/retired-at" in d["metadata"]["annotations"])
        operator.assert_calm()
        assert operator.log_text().count("BackendTrafficPolicy can be applied") == 1


@pytest.mark.feature("O1")
def test_a_gateway_may_be_turned_on_and_off(own_operator: OperatorProcess, world: World) -> None:
    for name in GATEWAY:
        own_operator.set(name, "")
    with running(own_operator):
        rollout = {"steps": [50], "interval": "0s"}
        world.create(inference_service(variants=[variant("v1", 100)], rollout=rollout))
        first = world.revision("flowers", "v1")
        world.set_ready(first, 1)
        ready = world.wait_for_condition("inferenceservices", "flowers", "RouteReady", "True", reason="NoGateway")
        assert "spec.rollout has no effect without a gateway" in ready["message"]
        assert selected_by(world) == first
        assert world.names("httproutes") == set()

    for name, value in GATEWAY.items():
        own_operator.set(name, value)
    with running(own_operator):
        world.wait_for_weights("flowers", {first: 100})
        world.accept_route("flowers")
        changed = [variant("v1", 100, model="s3://models/next")]
        world.patch("inferenceservices", "flowers", {"spec": {"variants": changed, "rollout": None}})
        (second,) = eventually(lambda: set(world.deployments_of("flowers", "v1")) - {first}, "another revision")
        world.set_ready(second, 1)
        world.wait_for_weights("flowers", {second: 100})
        # Those who call the Service in the cluster get the new model, too.
        eventually(lambda: selected_by(world) == second, "the Service selects the new model's pods")
        world.accept_route("flowers")
        world.wait_for_condition("inferenceservices", "flowers", "RouteReady", "True", reason="Accepted")

    for name in GATEWAY:
        own_operator.set(name, "")
    with running(own_operator):
        world.wait_until_gone("httproutes", "flowers")
        world.wait_until_gone("backendtrafficpolicies", "flowers")
        world.wait_for_condition("inferenceservices", "flowers", "RouteReady", "True", reason="NoGateway")
        assert selected_by(world) == second


def selected_by(world: World) -> str:
    revision: str = world.wait_for("services", "flowers")["spec"]["selector"]["bloomery.dev/revision"]
    return revision
