"""A Retraining whose operator is killed, or starts before the kind is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from testing.fault_proxy import PASS, Call, Fault, FaultProxy
from testing.operator_process import GATEWAY, running
from testing.samples import dataset, prepared, retraining, trained
from testing.simulated_controllers import World
from testing.waiting import TIMEOUT_SECONDS
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
