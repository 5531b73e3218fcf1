"""A Retraining whose operator is killed, or starts before the kind is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from testing.api_server import REPO, install_crds, private_apiserver
from testing.fault_proxy import PASS, Call, Fault, FaultProxy
from testing.operator_process import GATEWAY, OperatorProcess, running
from testing.samples import dataset, prepared, retraining, trained
from testing.simulated_controllers import World
from testing.waiting import TIMEOUT_SECONDS, eventually
from tests.component.operator_fixtures import NewOperator

pytestmark = pytest.mark.feature("S23")


@pytest.mark.parametrize("fault", [Fault(lost=True), Fault(unanswered=True)], ids=["before", "after"])
@pytest.mark.parametrize("kind", ["trainingjobs", "retrainings/status"])
def test_an_operator_killed_at_the_start_of_a_training_makes_one(
    kind: str, fault: Fault, world: World, new_operator: NewOperator, fault_proxy: FaultProxy, tmp_path: Path
) -> None:
    environment = {"KUBECONFIG": str(fault_proxy.kubeconfig(tmp_path)), "BLOOMERY_NAMESPACES": world.namespace}
    operator = new_operator(GATEWAY | environment)

    def begins_a_training(call: Call) -> bool:
        is_of_kind = call.is_write and call.kind == kind
        return is_of_kind and (kind == "trainingjobs" or '"active"' in call.body)

    fault_proxy.faults = lambda call: fault if begins_a_training(call) else PASS
    operator.start()
    world.create(dataset())
    world.create(retraining(onNewVersion=True))
    world.succeed("flowers-prepare", prepared())
    assert fault_proxy.struck.wait(TIMEOUT_SECONDS)
    operator.kill()
    assert len(world.names("trainingjobs")) == (kind != "trainingjobs" or fault.unanswered)
    fault_proxy.faults = lambda _: PASS
    with running(operator):
        name = world.wait_for("retrainings", "flowers", lambda m: m["status"].get("active"))["status"]["active"]
        world.succeed(f"{name}-train", trained())
        status = world.wait_for("retrainings", "flowers", lambda m: m["status"]["phase"] == "Waiting")["status"]
        assert status["trainings"] == 1
        assert world.names("trainingjobs") == {name}


@pytest.mark.parametrize("namespaces", ["", "demo"])
def test_an_operator_works_without_the_kind_and_restarts_once_it_comes(namespaces: str, tmp_path: Path) -> None:
    """Somebody else may install the kinds, after the operator."""
    with private_apiserver(tmp_path) as server, server.http() as client:
        former = [path for path in sorted((REPO / "crds").glob("*.yaml")) if path.stem != "retrainings"]
        install_crds(server, *former)
        assert server.kubectl("create", "namespace", "demo").returncode == 0
        world = World(client, "demo")
        world.make_storage_secret()
        environment = {"BLOOMERY_RESYNC_SECONDS": "1", "BLOOMERY_NAMESPACES": namespaces}
        operator = OperatorProcess(kubeconfig=server.kubeconfig, log=tmp_path / "operator.log", environment=environment)
        with running(operator):
            world.create(dataset())
            world.succeed("flowers-prepare", prepared())
            world.wait_for_condition("datasets", "flowers", "Ready", "True")
            assert operator.health().status_code == 200
            assert "the cluster has no kind Retraining yet" in operator.log_text()
            install_crds(server, REPO / "crds" / "retrainings.yaml")
            world.create(retraining(onNewVersion=True))
            eventually(lambda: operator.health().status_code != 200, "the liveness probe fails")
            operator.kill()
            operator.start()
            world.wait_for("retrainings", "flowers", lambda m: m["status"].get("active"))
            assert operator.health().status_code == 200
