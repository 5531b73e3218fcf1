"""Fixtures of the operator's component tests; ``conftest`` takes them in."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from dev.versions import ENVOY_GATEWAY
from tests.component.gatekeeper import Gatekeeper, standing_before
from tests.component.operator_harness import (
    GATEWAY,
    OperatorProcess,
    Trainer,
    World,
    dataset,
    eventually,
    prepared,
    remove_all_of_ours,
    running,
)

if TYPE_CHECKING:
    from tests.component.conftest import ApiServer

REPO = Path(__file__).resolve().parents[2]
GATEWAY_API = "sigs.k8s.io/gateway-api@v1.6.1"
CRD_FOLDER = Path("config/crd/standard")
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


def go_module(module: str) -> Path:
    """Return a module's folder in Go's module cache."""
    command = ["go", "mod", "download", "-json", module]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True, cwd="/")
    return Path(json.loads(done.stdout)["Dir"])


def gateway_api_crds() -> Path:
    """Return the folder of the Gateway API's CRDs."""
    return go_module(GATEWAY_API) / CRD_FOLDER


def install_gateway_api(server: ApiServer, *plurals: str) -> None:
    """Put kinds of the Gateway API into an API server."""
    folder = gateway_api_crds()
    install_crds(server, *(folder / f"gateway.networking.k8s.io_{plural}.yaml" for plural in plurals))


def install_crds(server: ApiServer, *paths: Path) -> None:
    """Put kinds into an API server, and wait until it serves them."""
    files = [f"--filename={path}" for path in paths]
    done = server.kubectl("apply", "--server-side", *files)
    assert done.returncode == 0, done.stderr
    wait = ("wait", "--for=condition=Established", "--timeout=30s", *files)
    # kubectl refuses to wait for an object whose conditions are not there yet.
    eventually(lambda: server.kubectl(*wait).returncode == 0, f"{[path.stem for path in paths]} are established")


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
    # A release of its own: the chart's own tests grant rights under the usual name, to another account.
    path = tmp_path_factory.mktemp("operator") / "kubeconfig"
    return grant_rights(gateway_api, path, helm=program("helm"), release="component-tests", home=HOME)


def grant_rights(server: ApiServer, kubeconfig: Path, *, helm: Path, release: str, home: str) -> Path:
    """Make a namespace with the operator's account, give that the chart's rights, and write a kubeconfig of it."""
    command = [str(helm), "template", release, str(REPO / "charts" / "bloomery")]
    command += ["--namespace", home, "--show-only", "templates/rbac.yaml", "--kube-version", "1.34.4"]
    command += ["--set", "operator.replicas=2"]
    command += ["--set", "gateway.name=bloomery"]
    roles = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    (account,) = {subject["name"] for role in yaml.safe_load_all(roles) if role for subject in role.get("subjects", [])}
    for arguments, text in (
        (("create", "namespace", home), None),
        (("create", "serviceaccount", account, "-n", home), None),
        (("apply", "-f", "-"), roles),
    ):
        done = server.kubectl(*arguments, input=text)
        assert done.returncode == 0, done.stderr
    return write_kubeconfig(server, kubeconfig, namespace=home, account=account)


def write_kubeconfig(server: ApiServer, path: Path, *, namespace: str, account: str) -> Path:
    """Write a kubeconfig with a token of a service account."""
    token = server.kubectl("create", "token", account, "-n", namespace, "--duration=2h")
    assert token.returncode == 0, token.stderr
    kubeconfig = json.loads(server.kubeconfig.read_text())
    kubeconfig["users"][0]["user"] = {"token": token.stdout.strip()}
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
def shared_operator(
    request: pytest.FixtureRequest, gateway_api: ApiServer, new_operator: NewOperator
) -> Iterator[OperatorProcess]:
    """Give the operator that works in all namespaces while a module's tests run."""
    apart = [item.name for item in request.session.items if item.path == request.path and _starts_its_own(item)]
    assert not apart, f"{apart} would find this operator at work beside their own: they belong into another module"
    with running(new_operator(GATEWAY)) as operator:
        yield operator
        with gateway_api.http() as client:
            remove_all_of_ours(client)


def _starts_its_own(item: pytest.Item) -> bool:
    names = getattr(item, "fixturenames", ())
    return "new_operator" in names and "shared_operator" not in names


@pytest.fixture
def operator(shared_operator: OperatorProcess) -> Iterator[OperatorProcess]:
    """Give the running operator; no test may leave a complaint in its log."""
    yield shared_operator
    shared_operator.assert_calm()


@pytest.fixture
def own_operator(new_operator: NewOperator, world: World) -> OperatorProcess:
    """Give an operator for the test's namespace alone, not yet started, to be killed at will."""
    return new_operator(GATEWAY | {"BLOOMERY_NAMESPACES": world.namespace})


@pytest.fixture
def gatekeeper(apiserver: ApiServer) -> Iterator[Gatekeeper]:
    """Give what stands between an operator and the API server."""
    with standing_before(apiserver) as gatekeeper:
        yield gatekeeper
