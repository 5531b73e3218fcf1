"""The real cluster with Bloomery's chart, a namespace under Pod Security restricted, and the digits in S3."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from dev import demo
from dev.paths import LOGS
from dev.stages import run_stages
from testing.dev_cluster import EXAMPLE, OPERATOR, SYSTEM, Digits, Kubectl, OperatorKiller, user_namespace
from tests.e2e.chart import scaled_to_zero
from tests.e2e.logs import Logs


@pytest.fixture(scope="session")
def system() -> Kubectl:
    """The installed chart."""
    LOGS.mkdir(parents=True, exist_ok=True)
    run_stages([stage for stage in demo.stages() if stage.name != "apply"])
    return Kubectl(SYSTEM)


@pytest.fixture(scope="session")
def operator_logs(system: Kubectl) -> Iterator[Logs]:
    """The logs of all operator pods of these tests, those that are killed too."""
    with Logs(system, OPERATOR, LOGS / "e2e-operator") as logs:
        yield logs
        assert logs.alarms() == []


@pytest.fixture(autouse=True)
def calm_operator(operator_logs: Logs) -> Iterator[None]:
    """After each test, the operator has logged no traceback, no error and nothing that was never awaited."""
    yield
    assert operator_logs.alarms() == []


@pytest.fixture(scope="session")
def make_namespace(system: Kubectl) -> Iterator[Callable[[str], Kubectl]]:
    """Make namespaces as a user's cluster would have them; they go with the tests."""
    made: list[Kubectl] = []

    def make(name: str) -> Kubectl:
        kubectl = user_namespace(name)
        made.append(kubectl)
        return kubectl

    yield make
    for kubectl in made:
        kubectl.run("delete", "namespace", kubectl.namespace, "--wait=false")


@pytest.fixture
def without_operator(system: Kubectl) -> Iterator[None]:
    """The operator for the whole cluster rests."""
    with scaled_to_zero(system):
        yield


@pytest.fixture(scope="session")
def digits(system: Kubectl, make_namespace: Callable[[str], Kubectl]) -> Digits:
    """``examples/digits`` from one apply to a served model, the operator being killed every few seconds."""
    kubectl = make_namespace("e2e-digits")
    with OperatorKiller(system, work_seconds=5) as killer:
        done = kubectl.apply(EXAMPLE)
        assert done.returncode == 0, done.stderr
        kubectl.wait("dataset/digits", "Ready", seconds=240)
        for job in ("digits-resnet18", "digits-resnet50"):
            kubectl.wait(f"tj/{job}", "Complete", seconds=900)
    kubectl.wait("isvc/digits", "Ready", seconds=180)
    return Digits(kubectl, killer.kills)
