"""Soak test: the cluster of dev/ under steady churn and faults (`make soak`); the last line is one JSON object.

Users create, change and delete objects, and roll models out. The leader of two operators is killed, or both; other
pods are killed too, MLflow and the object store stop and come back; one service gets requests all the time. At the end
all objects must have their final state, no object may remain, and no process may have grown. `MINUTES` sets the
duration (30), `SEED` the order of events (1). Do not use the cluster for anything else. The exit code is 1 if something
was lost or leaked, or has another final state.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from typing import Any

from dev import demo
from dev.paths import LOGS
from dev.stages import StageError, run_stages
from testing.cluster_store import remove_files
from testing.dev_cluster import OPERATOR, SYSTEM, Kubectl, eventually, gateway_address, user_namespace
from testing.load import Load, Outcome
from tests.e2e.logs import Logs
from tests.soak.faults import Faults, two_operators
from tests.soak.gauges import (
    CHILDREN,
    OWNERS,
    Record,
    Watched,
    count_objects,
    leader,
    operator_metric,
    orphans,
    restarts,
    running_pods,
)
from tests.soak.users import CAPTURES, PREDICTIONS, RAW, STANDING, User, put_images

NAMESPACE = "soak"
SERVERS = f"bloomery.dev/inferenceservice={STANDING}"
USERS = "ab"
RATE = 5.0
"""Requests a second to the service that stands."""
LINE_SECONDS, TICK_SECONDS = 30.0, 5.0
"""Between lines; between looks whether the time is over."""
SETTLE_SECONDS = 300.0
SPARED = 1 / 3
"""From this part of the time on, the operator is killed no more: only one that lives long shows what it gathers."""


class Soak:
    """One run: what stands, what happens meanwhile, and what is judged."""

    def __init__(self, minutes: float, seed: int) -> None:
        self.seconds = minutes * 60
        self.seed = seed
        self.record = Record()
        self.system = Kubectl(SYSTEM)
        self.kubectl = user_namespace(NAMESPACE)
        self.logs = Logs(self.system, OPERATOR, LOGS / "soak")
        self.operator = Watched(self.system, "the operator", lambda: leader(self.system))
        # Its faults spare the eldest.
        self.server = Watched(self.kubectl, "the server", lambda: next(iter(running_pods(self.kubectl, SERVERS)), None))
        self.load = Load(self.kubectl, "load")
        self.peak = 0
        self.began = time.monotonic()
        self._reported_faults = 0

    def run(self) -> dict[str, Any]:
        """The whole of it; the figures."""
        image = put_images()
        self._set_up(image)
        baseline = count_objects(self.kubectl, f"{OWNERS},{CHILDREN}")
        self._report()
        self._churn(image)
        self._settle(baseline)
        self._report()
        outcome = self.load.stop()
        figures = self._figures(outcome)
        self._judge(outcome, figures)
        return figures | {"problems": self.record.problems}

    def _set_up(self, image: bytes) -> None:
        """Create the permanent service with two pods, and start its load."""
        user = User(STANDING, self.seed, self.kubectl, self.record, image)
        user.create(STANDING, replicas=2)
        user.see_through(STANDING)
        user.ask(STANDING)
        url = f"{gateway_address(self.system)}/{NAMESPACE}/{STANDING}/predict"
        key = self.kubectl.secret(f"{STANDING}-api-key")["default"]
        count = round((self.seconds + 3600) * RATE)
        self.load.start(url, key=key, image=image, rate=RATE, count=count)
        self.began = time.monotonic()

    def _churn(self, image: bytes) -> None:
        """Run users and faults until the time is over and the last users are finished; print a line now and then."""
        stop = threading.Event()
        faults = Faults(self.seed, self.system, self.kubectl, SERVERS, self.record, stop)
        users = [User(letter, self.seed, self.kubectl, self.record, image) for letter in USERS]
        spared = self.began + self.seconds * SPARED
        # An interrupt waits for the end of an outage, but not for users.
        workers = [threading.Thread(target=user.work, args=(stop,), daemon=True) for user in users]
        breaker = threading.Thread(target=faults.work, kwargs={"spare_operator_after": spared})
        for thread in (*workers, breaker):
            thread.start()
        reported = time.monotonic()
        try:
            while breaker.is_alive() or any(worker.is_alive() for worker in workers):
                time.sleep(TICK_SECONDS)
                if time.monotonic() > self.began + self.seconds:
                    stop.set()
                if time.monotonic() - reported > LINE_SECONDS:
                    reported = time.monotonic()
                    self._report()
        finally:
            stop.set()
            breaker.join()

    def _settle(self, baseline: Counter[str]) -> None:
        """Wait until the objects are those from before, and no orphan is left."""

        def differs() -> dict[str, tuple[int, int]]:
            now = count_objects(self.kubectl, f"{OWNERS},{CHILDREN}")
            return {kind: (baseline[kind], now[kind]) for kind in now | baseline if now[kind] != baseline[kind]}

        try:
            eventually("all is as before", lambda: not differs() and not orphans(self.kubectl), seconds=SETTLE_SECONDS)
        except AssertionError:
            self.record.problem(f"objects by kind, before and now: {differs()}")

    def _report(self) -> None:
        """Read the gauges, and print a line of progress."""
        objects = count_objects(self.kubectl, OWNERS)
        children = count_objects(self.kubectl, CHILDREN).total()
        self.peak = max(self.peak, children)
        held = self.operator.read()
        self.server.read()
        counts, new = self.record.counts, self.record.faults[self._reported_faults :]
        self._reported_faults += len(new)
        progress = [line for line in self.load.log().splitlines() if "asked" in line][-1:]
        minutes, seconds = divmod(int(time.monotonic() - self.began), 60)
        parts = [
            f"{counts['created']} objects created, {counts['edited']} edits, {counts['deleted']} deleted",
            f"now {objects.total()} with {children} children",
            f"the operator holds {held.memory:.0f} MiB, {held.files} files, {held.threads} threads"
            if held
            else "the operator is away",
            f"requests: {''.join(progress)}",
            *(f"{what}, {ended - began:.0f} s" for began, ended, what in new),
        ]
        print(f"[{minutes:3d}:{seconds:02d}] {'; '.join(parts)}", flush=True)

    def _figures(self, outcome: Outcome) -> dict[str, Any]:
        operator = eventually("an operator works", lambda: leader(self.system), seconds=SETTLE_SECONDS)
        return {
            "minutes": round(self.seconds / 60, 1),
            "seed": self.seed,
            **{name: self.record.counts[name] for name in ("created", "edited", "deleted", "feedback")},
            **{name: self.record.counts[name] for name in ("operatorKills", "workerKills", "serverKills", "outages")},
            "secondsFromApply": self.record.percentiles(),
            "operator": self.operator.figures(),
            "server": self.server.figures(),
            "requests": {
                "sent": outcome.requests,
                "failed": outcome.wrong_count,
                "p50ms": round(outcome.p50 * 1000, 1),
                "p99ms": round(outcome.p99 * 1000, 1),
            },
            "mostChildren": self.peak,
            "orphans": orphans(self.kubectl),
            "alarms": self.logs.alarms(),
            "restarts": restarts(self.system, OPERATOR) + restarts(self.kubectl, SERVERS),
            "missedChanges": operator_metric(self.system, operator, "bloomery_missed_changes_total"),
        }

    def _judge(self, outcome: Outcome, figures: dict[str, Any]) -> None:
        """Record the problems in the figures."""
        if outcome.wrong_count:
            self.record.problem(f"{outcome.wrong_count} of {outcome.requests} requests failed; the first:")
        for failure in outcome.wrong:
            moment = float(failure.partition(" ")[0])
            self.record.problem(f"request {failure} ({self.record.meanwhile(moment)})")
        for name in ("orphans", "alarms", "restarts", "missedChanges"):
            if figures[name]:
                self.record.problem(f"{name}: {figures[name]}")
        for leak in (*self.operator.leaks(), *self.server.leaks()):
            self.record.problem(leak)


def clean(kubectl: Kubectl) -> None:
    """Remove the namespace, which must go, and the files that it left in the store."""
    kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=300s")
    made = (f"s3://bloomery/{folder}/{NAMESPACE}" for folder in ("models", "datasets"))
    for folder in (RAW, CAPTURES, PREDICTIONS, *made):
        remove_files(folder)


def main() -> int:
    """Run the soak test; return 1 if there is a problem."""
    minutes, seed = float(os.environ.get("MINUTES", "30")), int(os.environ.get("SEED", "1"))
    # SIGTERM ends it as Ctrl-C does: MLflow and the store are restored first.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    LOGS.mkdir(parents=True, exist_ok=True)
    try:
        run_stages([stage for stage in demo.stages() if stage.name == "chart"])
    except StageError as error:
        raise SystemExit(f"\n{error}.") from None
    print(f"{minutes:g} minutes with seed {seed}; the operators' logs are kept in {LOGS / 'soak'}", flush=True)
    soak = Soak(minutes, seed)
    try:
        with soak.logs, two_operators(soak.system):
            figures = soak.run()
    finally:
        clean(soak.kubectl)
    print(json.dumps(figures, ensure_ascii=False))
    return 1 if figures["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
