"""Fixtures of the operator's component tests; ``conftest`` imports them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from dev.versions import ENVOY_GATEWAY
from testing.api_server import ApiServer, grant_rights, install_crds
from testing.fault_proxy import FaultProxy, run_fault_proxy
from testing.gateway_api import go_module, install_gateway_api
from testing.kubernetes_api import remove_all_of_ours
from testing.operator_process import GATEWAY, OperatorProcess, running
from testing.samples import dataset, prepared
from testing.simulated_controllers import Trainer, World

ENVOY_GATEWAY_CRDS = Path("charts/gateway-helm/charts/crds/crds/generated")

HOME = "operator-home"

NewOperator = Callable[..., OperatorProcess]


@pytest.fixture(scope="session")
def gateway_api(crds: ApiServer) -> ApiServer:
    """Give the API server with our kinds, with HTTPRoutes and with Envoy Gateway's policies."""
    install_gateway_api(crds, "httproutes")
    module = go_module(f"github.com/envoyproxy/gateway@{ENVOY_GATEWAY}")
    install_crds(crds, module / ENVOY_GATEWAY_CRDS / "gateway.envoyproxy.io_backendtrafficpolicies.yaml")
    return crds


@pytest.fixture
def world(gateway_api: ApiServer, namespace: str) -> Iterator[World]:
    """Give an empty namespace with the storage Secret in it."""
    with gateway_api.http() as client:
        world = World(client, namespace)
        world.make_storage_secret()
        yield world


@pytest.fixture
def ready_world(world: World) -> World:
    """Give a namespace with a prepared Dataset."""
    world.create(dataset())
    world.succeed("flowers-prepare", prepared())
    world.wait_for_condition("datasets", "flowers", "Ready", "True")
    return world


@pytest.fixture
def trainer() -> Iterator[Trainer]:
    """Give a trainer that answers requests for its progress, and requests to stop."""
    trainer = Trainer()
    with trainer.serving():
        yield trainer


@pytest.fixture(scope="session")
def operator_kubeconfig(
    gateway_api: ApiServer, program: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Give a kubeconfig with the rights that the chart grants the operator, and no others."""
    # The chart's own tests use the usual release name for the rights of another account.
    path = tmp_path_factory.mktemp("operator") / "kubeconfig"
    return grant_rights(gateway_api, path, helm=program("helm"), release="component-tests", home=HOME)


@pytest.fixture(scope="session")
def new_operator(operator_kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory) -> NewOperator:
    """Give a function that returns an operator that is not started yet."""

    def make(environment: Mapping[str, str]) -> OperatorProcess:
        log = tmp_path_factory.mktemp("operator") / "operator.log"
        return OperatorProcess(kubeconfig=operator_kubeconfig, log=log, environment=environment)

    return make


@pytest.fixture(scope="module")
def shared_operator(
    request: pytest.FixtureRequest, gateway_api: ApiServer, new_operator: NewOperator
) -> Iterator[OperatorProcess]:
    """Give an operator that watches all namespaces during a module's tests."""
    conflicting = [item.name for item in request.session.items if item.path == request.path and _starts_its_own(item)]
    assert not conflicting, f"{conflicting} start another operator: move them to another module"
    with running(new_operator(GATEWAY)) as operator:
        yield operator
        with gateway_api.http() as client:
            remove_all_of_ours(client)


def _starts_its_own(item: pytest.Item) -> bool:
    names = getattr(item, "fixturenames", ())
    return "new_operator" in names and "shared_operator" not in names


@pytest.fixture
def operator(shared_operator: OperatorProcess) -> Iterator[OperatorProcess]:
    """Give the running operator; fail if a test leaves an error in its log."""
    yield shared_operator
    shared_operator.assert_calm()


@pytest.fixture
def own_operator(new_operator: NewOperator, world: World) -> OperatorProcess:
    """Give an operator for the test's namespace only, not started yet, which the test may kill."""
    return new_operator(GATEWAY | {"BLOOMERY_NAMESPACES": world.namespace})


@pytest.fixture
def fault_proxy(apiserver: ApiServer) -> Iterator[FaultProxy]:
    """Give a fault proxy between an operator and the API server."""
    with run_fault_proxy(apiserver) as fault_proxy:
        yield fault_proxy
