"""Fixtures of the operator's component tests; ``conftest`` takes them in."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.component.operator_harness import (
    GATEWAY,
    OperatorProcess,
    Trainer,
    World,
    dataset,
    prepared,
    remove_all_of_ours,
    running,
)

if TYPE_CHECKING:
    from tests.component.conftest import ApiServer

REPO = Path(__file__).resolve().parents[2]
GATEWAY_API = "sigs.k8s.io/gateway-api@v1.6.1"
ROUTE_CRD = Path("config/crd/standard/gateway.networking.k8s.io_httproutes.yaml")

HOME = "operator-home"

NewOperator = Callable[..., OperatorProcess]


@pytest.fixture(scope="session")
def gateway_api(crds: ApiServer) -> ApiServer:
    """Give the API server with our kinds and with HTTPRoutes, their CRD as Go's module cache has it."""
    command = ["go", "mod", "download", "-json", GATEWAY_API]
    module = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True, cwd="/")
    crd = Path(json.loads(module.stdout)["Dir"]) / ROUTE_CRD
    for step in (("apply", "--server-side", "-f"), ("wait", "--for=condition=Established", "--timeout=30s", "-f")):
        done = crds.kubectl(*step, str(crd))
        assert done.returncode == 0, done.stderr
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
    """Give a trainer that answers whoever asks for its progress or tells it to stop."""
    trainer = Trainer()
    with trainer.serving():
        yield trainer


@pytest.fixture(scope="session")
def operator_kubeconfig(
    gateway_api: ApiServer, program: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Give the way to the API server with the rights that the chart gives the operator, and no others."""
    command = [str(program("helm")), "template", "bloomery", str(REPO / "charts" / "bloomery")]
    command += ["--namespace", HOME, "--show-only", "templates/rbac.yaml", "--kube-version", "1.34.4"]
    roles = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    (account,) = {subject["name"] for role in yaml.safe_load_all(roles) if role for subject in role.get("subjects", [])}
    for arguments, text in (
        (("create", "namespace", HOME), None),
        (("create", "serviceaccount", account, "-n", HOME), None),
        (("apply", "-f", "-"), roles),
    ):
        done = gateway_api.kubectl(*arguments, input=text)
        assert done.returncode == 0, done.stderr
    token = gateway_api.kubectl("create", "token", account, "-n", HOME, "--duration=2h")
    assert token.returncode == 0, token.stderr
    kubeconfig = json.loads(gateway_api.kubeconfig.read_text())
    kubeconfig["users"][0]["user"] = {"token": token.stdout.strip()}
    path = tmp_path_factory.mktemp("operator") / "kubeconfig"
    path.write_text(json.dumps(kubeconfig))
    return path


@pytest.fixture(scope="session")
def new_operator(operator_kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory) -> NewOperator:
    """Give a maker of operators that are not started yet."""

    def make(environment: Mapping[str, str]) -> OperatorProcess:
        log = tmp_path_factory.mktemp("operator") / "operator.log"
        return OperatorProcess(kubeconfig=operator_kubeconfig, log=log, environment=environment)

    return make


@pytest.fixture(scope="module")
def shared_operator(gateway_api: ApiServer, new_operator: NewOperator) -> Iterator[OperatorProcess]:
    """Give the operator that works in all namespaces while a module's tests run."""
    with running(new_operator(GATEWAY)) as operator:
        yield operator
        with gateway_api.http() as client:
            remove_all_of_ours(client)


@pytest.fixture
def operator(shared_operator: OperatorProcess) -> Iterator[OperatorProcess]:
    """Give the running operator; no test may leave a complaint in its log."""
    yield shared_operator
    shared_operator.assert_calm()


@pytest.fixture
def own_operator(new_operator: NewOperator, world: World) -> OperatorProcess:
    """Give an operator for the test's namespace alone, not yet started, to be killed at will."""
    return new_operator(GATEWAY | {"BLOOMERY_NAMESPACES": world.namespace})
