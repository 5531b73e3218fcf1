"""Faults of the network, the API server and the operator: the final state is always the same."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from testing.api_server import ApiServer
from testing.fault_proxy import PASS, Call, Fault, FaultProxy, Faults
from testing.kubernetes_api import Manifest
from testing.operator_process import GATEWAY, OperatorProcess
from testing.samples import dataset, inference_service, variant
from testing.scenario import differences, final_state, resource_versions, run_scenario
from testing.simulated_controllers import World
from testing.waiting import eventually
from tests.component.operator_fixtures import NewOperator

pytestmark = [pytest.mark.feature("O4"), pytest.mark.extended]

QUIET_SECONDS = 60.0
SWEEP_SECONDS = 900.0


@pytest.fixture
def tried_operator(
    new_operator: NewOperator, world: World, fault_proxy: FaultProxy, tmp_path: Path
) -> Iterator[OperatorProcess]:
    """Give an operator for the test's namespace that reaches the API server through the fault_proxy only."""
    environment = {
        "KUBECONFIG": str(fault_proxy.kubeconfig(tmp_path)),
        "BLOOMERY_NAMESPACES": world.namespace,
        "BLOOMERY_REQUEST_SECONDS": "2",
        "BLOOMERY_RESYNC_SECONDS": "5",
        "BLOOMERY_TRAFFIC_SECONDS": "1",
    }
    operator = new_operator(GATEWAY | environment)
    yield operator
    operator.end()


@pytest.fixture(scope="module")
def undisturbed(gateway_api: ApiServer, new_operator: NewOperator) -> dict[str, Any]:
    """Give what is there at the end when nothing goes wrong."""
    with gateway_api.http() as client:
        world = World(client, "undisturbed")
        assert gateway_api.kubectl("create", "namespace", world.namespace).returncode == 0
        world.make_storage_secret()
        operator = new_operator(GATEWAY | {"BLOOMERY_NAMESPACES": world.namespace, "BLOOMERY_TRAFFIC_SECONDS": "1"})
        operator.start()
        for _ in run_scenario(world):
            time.sleep(0.1)
        assert operator.stop() == 0
        operator.assert_calm()
        return final_state(world)


def once(fault: Fault, *, of: Callable[[Call], bool] = lambda call: call.is_write, each: int = 1) -> Faults:
    """Let it happen to every so-manieth different request, the first time that it is made."""
    seen: set[tuple[str, str]] = set()

    def decide(call: Call) -> Fault:
        if not of(call) or call.identity in seen:
            return PASS
        seen.add(call.identity)
        return fault if len(seen) % each == 0 else PASS

    return decide


def is_read(call: Call) -> bool:
    return call.method == "GET" and not call.is_watch


def in_turns(*faults: Fault, of: Callable[[Call], bool]) -> Faults:
    """Let one after the other happen to such requests, and then the first again."""
    turns = itertools.cycle(faults)
    return lambda call: next(turns) if of(call) else PASS


def now_and_then(fault: Fault, *, of: Callable[[Call], bool], share: float) -> Faults:
    """Let it happen to a share of such requests, by the same dice in each run."""
    dice = random.Random(1)
    return lambda call: fault if of(call) and dice.random() < share else PASS


def is_watch(call: Call) -> bool:
    return call.is_watch


def is_list(call: Call) -> bool:
    return call.is_list


@dataclass(frozen=True)
class Weather:
    """Faults of requests, and the number of lists of everything meanwhile."""

    faults: Callable[[], Faults]
    resync_seconds: int = 30
    """So rarely, that with nothing else to begin a second try the story would not end in time."""
    from_the_start: bool = True


FAULTS = {
    "409": Weather(lambda: once(Fault(status=409), each=2)),
    "429": Weather(lambda: once(Fault(status=429), each=2)),
    "500": Weather(lambda: once(Fault(status=500), each=2)),
    "connections that end after the write": Weather(lambda: once(Fault(cut=True))),
    "answers that never come": Weather(lambda: once(Fault(unanswered=True), each=3)),
    # An operator that cannot read at its start ends, and is started again.
    "reads that fail": Weather(
        lambda: now_and_then(Fault(status=503), of=is_read, share=0.1), resync_seconds=5, from_the_start=False
    ),
    "watches that end after each news": Weather(lambda: in_turns(Fault(cut=True), of=is_watch), resync_seconds=600),
    "watches that are torn down after each news": Weather(
        lambda: in_turns(Fault(torn=True), of=is_watch), resync_seconds=600
    ),
    "watches that forget or fall silent": Weather(
        lambda: in_turns(Fault(failed=410), Fault(silent=True), of=is_watch), resync_seconds=2
    ),
    "lists of long ago": Weather(lambda: in_turns(PASS, Fault(stale=True), of=is_list), resync_seconds=5),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_of_the_api_server_change_nothing_in_the_end(
    name: str, undisturbed: dict[str, Any], tried_operator: OperatorProcess, fault_proxy: FaultProxy, world: World
) -> None:
    weather = FAULTS[name]
    tried_operator.set("BLOOMERY_RESYNC_SECONDS", str(weather.resync_seconds))
    faults = weather.faults()
    if weather.from_the_start:
        fault_proxy.faults = faults
    tried_operator.start()
    fault_proxy.faults = faults
    for _ in run_scenario(world):
        time.sleep(0.1)
    _assert_same_end(world, undisturbed)
    _assert_quiet(fault_proxy, world)
    assert tried_operator.stop() == 0
    _assert_no_trace(tried_operator)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_kill_at_each_write_leads_to_the_same_end(
    moment: str, undisturbed: dict[str, Any], tried_operator: OperatorProcess, fault_proxy: FaultProxy, world: World
) -> None:
    # One thing at a time: no other work goes on while a request is held back.
    tried_operator.set("BLOOMERY_WORKERS", "1")
    fault_proxy.faults = once(Fault(lost=True) if moment == "before" else Fault(unanswered=True))
    tried_operator.start()
    deadline, kills = time.monotonic() + SWEEP_SECONDS, 0

    def kill_if_struck(*, within: float) -> bool:
        struck = fault_proxy.struck.wait(within)
        if struck:
            tried_operator.kill()
            fault_proxy.struck.clear()
            tried_operator.start()
        return struck

    for title in run_scenario(world):
        assert time.monotonic() < deadline, title
        kills += kill_if_struck(within=0.1)
    # What is written once the user has seen the last chapter's end counts, too.
    while kill_if_struck(within=3):
        kills += 1
    _assert_same_end(world, undisturbed)
    held = {call.kind for call in fault_proxy.held}
    assert held >= {"configmaps", "jobs", "secrets", "deployments", "services", "httproutes"}
    assert held >= {"poddisruptionbudgets", "horizontalpodautoscalers"}
    assert held >= {"datasets/status", "trainingjobs/status", "retrainings/status", "inferenceservices/status"}
    assert "trainingjobs" in held
    assert kills >= 30
    fault_proxy.faults = lambda _: PASS
    _assert_quiet(fault_proxy, world)
    tried_operator.assert_calm()


@pytest.mark.parametrize(
    ("plural", "parent"),
    [("datasets", dataset()), ("inferenceservices", inference_service(variants=[variant("v1", 100)]))],
    ids=["Dataset", "InferenceService"],
)
def test_children_of_an_object_whose_deletion_was_missed_are_garbage(
    plural: str, parent: Manifest, tried_operator: OperatorProcess, fault_proxy: FaultProxy, world: World
) -> None:
    tried_operator.set("BLOOMERY_RESYNC_SECONDS", "600")
    tried_operator.start()
    world.delete("secrets", "bloomery-storage")
    world.create(parent)
    world.wait_for_condition(plural, "flowers", "Ready", "False", reason="SecretNotFound")
    uid = world.wait_for(plural, "flowers")["metadata"]["uid"]
    fault_proxy.silenced.set()
    world.delete(plural, "flowers")
    before = len(fault_proxy.writes)
    world.make_storage_secret()

    def children() -> list[Call]:
        return [call for call in fault_proxy.writes[before:] if not call.kind.endswith("/status")]

    eventually(children, "a child is written")
    time.sleep(2)  # for as long as it takes to write the others
    # Kubernetes' garbage collector removes what names an owner that is gone. A status names its object's uid as well,
    # and so the API server refuses it.
    assert [call.what for call in children() if uid not in call.body] == []


def test_watches_that_fail_for_longer_than_a_minute_go_on_afterwards(
    tried_operator: OperatorProcess, fault_proxy: FaultProxy, world: World
) -> None:
    tried_operator.set("BLOOMERY_RESYNC_SECONDS", "600")
    fault_proxy.faults = lambda call: Fault(status=503) if call.is_watch else PASS
    tried_operator.start()
    # kopf by itself would give up after 54 s.
    time.sleep(60)
    fault_proxy.faults = lambda _: PASS
    assert tried_operator.health().status_code == 200
    world.create(dataset())
    world.wait_for("jobs", "flowers-prepare")
    assert tried_operator.stop() == 0
    _assert_no_trace(tried_operator)


def _assert_same_end(world: World, undisturbed: dict[str, Any]) -> None:
    def describe_differences() -> str:
        return "\n".join(differences(final_state(world), undisturbed))

    eventually(lambda: not describe_differences(), describe_differences, seconds=30)


def _assert_quiet(fault_proxy: FaultProxy, world: World) -> None:
    # One that was killed at the end applies everything once more.
    eventually(fault_proxy.is_quiet, "nothing is sent any more", seconds=30)
    before, writes = resource_versions(world), len(fault_proxy.writes)
    time.sleep(QUIET_SECONDS)
    assert [call.what for call in fault_proxy.writes[writes:]] == []
    assert resource_versions(world) == before


def _assert_no_trace(operator: OperatorProcess) -> None:
    text = operator.log_text()
    for alarm in ("Traceback", "ERROR", "never awaited", "never retrieved"):
        assert alarm not in text, text[-6000:]
