"""Several operators: one is active, the others stand by, and two never write at the same time."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

import pytest

from testing.api_server import ApiServer
from testing.fault_proxy import PASS, Call, Fault, FaultProxy, run_fault_proxy
from testing.operator_process import GATEWAY, OperatorProcess, running
from testing.samples import dataset
from testing.simulated_controllers import World
from testing.waiting import eventually
from tests.component.operator_fixtures import HOME, NewOperator

pytestmark = pytest.mark.feature("O4")

TAKEOVER_SECONDS = 20.0
NewReplica = Callable[[str], tuple[OperatorProcess, FaultProxy]]


@pytest.fixture
def new_replica(apiserver: ApiServer, new_operator: NewOperator, world: World, tmp_path: Path) -> Iterator[NewReplica]:
    """Give a function that makes operators which share a Lease, each behind its own fault proxy."""
    with ExitStack() as stack:

        def make(name: str) -> tuple[OperatorProcess, FaultProxy]:
            fault_proxy = stack.enter_context(run_fault_proxy(apiserver))
            (tmp_path / name).mkdir()
            environment = {
                "KUBECONFIG": str(fault_proxy.kubeconfig(tmp_path / name)),
                "BLOOMERY_NAMESPACES": world.namespace,
                "BLOOMERY_LEASE_NAMESPACE": world.namespace,
                "BLOOMERY_POD_NAME": name,
            }
            operator = new_operator(GATEWAY | environment)
            stack.callback(operator.end)
            return operator, fault_proxy

        yield make


@pytest.fixture
def leader(new_replica: NewReplica) -> tuple[OperatorProcess, FaultProxy]:
    """Give the operator that works."""
    operator, fault_proxy = new_replica("first")
    operator.start()
    return operator, fault_proxy


@pytest.fixture
def standby(leader: object, new_replica: NewReplica) -> tuple[OperatorProcess, FaultProxy]:
    """Give the one that stands by."""
    operator, fault_proxy = new_replica("second")
    operator.start(until="waiting for the lease")
    return operator, fault_proxy


def test_the_one_that_stands_by_is_well_and_writes_nothing(
    leader: tuple[OperatorProcess, FaultProxy], standby: tuple[OperatorProcess, FaultProxy], world: World
) -> None:
    world.create(dataset())
    world.wait_for("jobs", "flowers-prepare")
    assert standby[1].writes == []
    assert standby[0].health().status_code == 200
    assert "bloomery_leader 0.0" in standby[0].metrics()
    assert "bloomery_leader 1.0" in leader[0].metrics()


def test_after_a_kill_the_other_takes_over_within_twenty_seconds(
    leader: tuple[OperatorProcess, FaultProxy], standby: tuple[OperatorProcess, FaultProxy], world: World
) -> None:
    leader[0].kill()
    world.create(dataset())
    eventually(lambda: world.get("jobs", "flowers-prepare"), "the other works", seconds=TAKEOVER_SECONDS)
    assert len(_work(standby[1])) > 0
    standby[0].assert_calm()


def test_one_that_is_asked_to_end_hands_over_at_once(
    leader: tuple[OperatorProcess, FaultProxy], standby: tuple[OperatorProcess, FaultProxy], world: World
) -> None:
    assert leader[0].stop() == 0
    world.create(dataset())
    # Well before the lease would have run out.
    eventually(lambda: world.get("jobs", "flowers-prepare"), "the other works", seconds=8)
    leader[0].assert_calm()
    standby[0].assert_calm()


def test_one_that_was_frozen_and_wakes_up_writes_nothing_and_ends(
    leader: tuple[OperatorProcess, FaultProxy], standby: tuple[OperatorProcess, FaultProxy], world: World
) -> None:
    leader[0].freeze()
    # It wakes up to work that the other has done already, and to work that is new to both.
    world.create(dataset())
    world.wait_for("jobs", "flowers-prepare")
    before = len(_work(leader[1]))
    world.create(dataset("tulips"))
    leader[0].thaw()
    assert leader[0].wait() == 1
    assert _work(leader[1])[before:] == []
    assert "was taken by second" in leader[0].log_text()
    assert "Traceback" not in leader[0].log_text()
    world.wait_for("jobs", "tulips-prepare")


def test_replica_that_wakes_without_news_of_its_lease_writes_nothing(
    leader: tuple[OperatorProcess, FaultProxy], standby: tuple[OperatorProcess, FaultProxy], world: World
) -> None:
    tried: list[str] = []

    def only_without_a_lease(call: Call) -> Fault:
        if call.kind == "leases":
            return Fault(lost=True)
        tried.extend([call.what] if call.is_write else [])
        return PASS

    leader[0].freeze()
    leader[1].faults = only_without_a_lease
    eventually(lambda: "took the lease" in standby[0].log_text(), "the other has the lease", seconds=TAKEOVER_SECONDS)
    world.create(dataset())
    leader[0].thaw()
    assert leader[0].wait() == 1
    assert tried == []
    assert "was not sent" in leader[0].log_text()


def test_one_that_is_cut_off_ends_before_the_other_begins(
    leader: tuple[OperatorProcess, FaultProxy], standby: tuple[OperatorProcess, FaultProxy], world: World
) -> None:
    world.create(dataset())
    world.wait_for("jobs", "flowers-prepare")
    leader[1].closed.set()
    assert leader[0].wait(seconds=TAKEOVER_SECONDS) == 1
    assert "could not be renewed for 7 s" in leader[0].log_text()
    world.create(dataset("tulips"))
    world.wait_for("jobs", "tulips-prepare")
    assert _logged_at(leader[0], "the operator ends") < _logged_at(standby[0], "took the lease")


def test_the_rights_that_the_chart_gives_are_enough(new_operator: NewOperator, world: World) -> None:
    environment = {"BLOOMERY_NAMESPACES": world.namespace, "BLOOMERY_LEASE_NAMESPACE": HOME}
    with running(new_operator(GATEWAY | environment)):
        world.create(dataset())
        world.wait_for("jobs", "flowers-prepare")


def test_operators_that_start_together_agree_on_one(new_replica: NewReplica, world: World) -> None:
    replicas = [new_replica(name) for name in ("first", "second", "third")]
    for operator, _ in replicas:
        operator.start(until="the lease")
    world.create(dataset())
    world.wait_for("jobs", "flowers-prepare")
    time.sleep(3)  # for as long as a renewal takes: a second one would have worked by now
    assert sorted(bool(_work(fault_proxy)) for _, fault_proxy in replicas) == [False, False, True]


def _work(fault_proxy: FaultProxy) -> list[str]:
    """Return its writes besides the Lease."""
    return [call.what for call in fault_proxy.writes if call.kind != "leases"]


def _logged_at(operator: OperatorProcess, words: str) -> datetime:
    line = next(line for line in operator.log_text().splitlines() if words in line)
    timestamp = re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}", line)
    assert timestamp, line
    return datetime.strptime(timestamp.group(), "%Y-%m-%d %H:%M:%S,%f")
