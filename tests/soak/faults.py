"""Faults of the soak test: kills of pods and of the operator, outages of MLflow and the object store."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from testing.dev_cluster import Kubectl, OperatorKiller, eventually
from tests.soak.gauges import Record, leader, running_pods

DEPLOYMENT = "deployment/bloomery-operator"
OUTAGES = {"MLflow": "bloomery-mlflow", "the object store": "bloomery-storage"}
LIMIT = 600.0
"""Seconds in which what was taken down or killed must be back: MLflow takes minutes to start on a busy machine."""


@contextmanager
def two_operators(system: Kubectl) -> Iterator[None]:
    """Run the operator twice, one to take over where the other is lost; in the end as often as before."""
    before = system("get", DEPLOYMENT, "--output=jsonpath={.spec.replicas}")
    # Without a Lease, two would work against each other.
    eventually("an operator holds the Lease", lambda: leader(system), seconds=60)
    try:
        _scale(system, DEPLOYMENT, replicas="2")
        yield
    finally:
        _scale(system, DEPLOYMENT, replicas=before)


def _scale(system: Kubectl, deployment: str, *, replicas: str) -> None:
    system("scale", deployment, f"--replicas={replicas}")
    system("rollout", "status", deployment, f"--timeout={LIMIT:.0f}s")


class Faults:
    """Faults in an order set by a seed, one at a time."""

    def __init__(
        self, seed: int, system: Kubectl, kubectl: Kubectl, servers: str, record: Record, stop: threading.Event
    ) -> None:
        self._order = random.Random(seed)
        # A second generator, as the number of pods to choose from varies, and must not change the order.
        self._chance = random.Random(seed)
        self._system = system
        self._kubectl = kubectl
        self._servers = servers
        self._record = record
        self._stop = stop

    def work(self, *, spare_operator_after: float) -> None:
        """Inject faults until ``stop``; before a monotonic time, kill the operator between any two."""
        everything: list[Callable[[], None]] = [partial(self._take_down, which) for which in OUTAGES]
        everything += [self._kill_worker, self._kill_server] * 2
        while not self._stop.is_set():
            for fault in self._order.sample(everything, len(everything)):
                if time.monotonic() < spare_operator_after:
                    self._order.choice((self._kill_operators, self._kill_leader))()
                if self._stop.wait(self._order.uniform(5, 20)):
                    return
                fault()

    def _kill_operators(self) -> None:
        """Kill both of them, again and again."""
        with self._record.fault("the operators were killed"):
            with OperatorKiller(self._system, work_seconds=3) as killer:
                self._stop.wait(20)
            self._record.count("operatorKills", killer.kills)

    def _kill_leader(self) -> None:
        """Kill the one that works; the other must take over."""
        with self._record.fault("the operator that works was killed"):
            killed, began = leader(self._system), time.monotonic()
            if killed:
                self._kill(self._system, killed)
                self._record.count("operatorKills")
            eventually("another operator works", lambda: leader(self._system) not in (None, killed), seconds=LIMIT)
            self._record.took("operator takes over", time.monotonic() - began)

    def _kill_worker(self) -> None:
        """Kill a pod that prepares, trains, registers or predicts, if there is one."""
        pods = running_pods(self._kubectl, "app.kubernetes.io/name in (prepare,train,register,predict)")
        if pods:
            with self._record.fault("a working pod was killed"):
                self._kill(self._kubectl, self._chance.choice(pods))
                self._record.count("workerKills")

    def _kill_server(self) -> None:
        """Kill the younger pod of the service that is under load: the elder is watched over the whole time."""
        with self._record.fault("a pod of the service under load was killed"):
            younger = running_pods(self._kubectl, self._servers)[-1]
            self._kill(self._kubectl, younger)
            self._record.count("serverKills")

            def is_whole() -> bool:
                return len(set(running_pods(self._kubectl, self._servers, ready=True)) - {younger}) == 2

            eventually("two pods serve again", is_whole, seconds=LIMIT, interval=2)

    def _kill(self, kubectl: Kubectl, pod: str) -> None:
        """Ask it to go, or end it at once."""
        how = self._chance.choice(([], ["--grace-period=0", "--force"]))
        # It may have ended meanwhile.
        kubectl.run("delete", "pod", pod, "--wait=false", *how, check=False)

    def _take_down(self, which: str) -> None:
        deployment = f"deployment/{OUTAGES[which]}"
        seconds = self._chance.uniform(8, 20)
        with self._record.fault(f"{which} was away"):
            try:
                self._system("scale", deployment, "--replicas=0")
                selector = f"app.kubernetes.io/component={OUTAGES[which].removeprefix('bloomery-')}"
                pods = partial(self._system.get, "pods", "", f"--selector={selector}")
                eventually(f"{which} is gone", lambda: not pods(), seconds=LIMIT, interval=1)
                self._stop.wait(seconds)
            finally:
                _scale(self._system, deployment, replicas="1")
            self._record.count("outages")
