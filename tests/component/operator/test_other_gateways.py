"""Clusters with another gateway than Envoy Gateway, which have no traffic policies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testing.api_server import ApiServer, grant_rights, install_kinds, private_apiserver
from testing.gateway_api import install_gateway_api
from testing.operator_process import GATEWAY, OperatorProcess, running
from testing.samples import inference_service, variant
from testing.simulated_controllers import World

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
