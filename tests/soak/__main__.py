"""`make soak`: the cluster of dev/ under steady churn and faults; the last line is one JSON object.

Users create, change and delete objects, and roll models out. Of two operators the one that works is killed, or both;
other pods are killed too, MLflow and the object store go away and come back; a service that stands is asked all the
time. In the end all must be where it should be, nothing may be left over, and no process may have grown. `MINUTES`
says how long (30), `SEED` which course it takes (1). Whoever else uses the cluster is disturbed. The exit code is 1
where something was lost, leaked, or ended elsewhere.
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
from tests.soak.users import RAW, STANDING, User, put_images

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
        self._told = 0

    def run(self) -> dict[str, Any]:
        """The whole of it; the figures."""
        image = put_images()
        self._set_up(image)
        baseline = count_objects(self.kubectl, f"{OWNERS},{CHILDREN}")
        self._tell()
        self._churn(image)
        self._settle(baseline)
        self._tell()
        outcome = self.load.stop()
        found = self._figures(outcome)
        self._judge(outcome, found)
        return found | {"problems": self.record.problems}

    def _set_up(self, image: bytes) -> None:
        """The service that stands, with two pods, and its load."""
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
        """Users and faults at work until the time is over and the last lives are lived; a line now and then."""
        stop = threading.Event()
        faults = Faults(self.seed, self.system, self.kubectl, SERVERS, self.record, stop)
        users = [User(letter, self.seed, self.kubectl, self.record, image) for letter in USERS]
        spared = self.began + self.seconds * SPARED
        # Who interrupts this does not wait for users in the middle of a life, but for the end of an outage.
        workers = [threading.Thread(target=user.work, args=(stop,), daemon=True) for user in users]
        breaker = threading.Thread(target=faults.work, kwargs={"spare_operator_after": spared})
        for thread in (*workers, breaker):
            thread.start()
        told = time.monotonic()
        try:
            while breaker.is_alive() or any(worker.is_alive() for worker in workers):
                time.sleep(TICK_SECONDS)
                if time.monotonic() > self.began + self.seconds:
                    stop.set()
                if time.monotonic() - told > LINE_SECONDS:
                    told = time.monotonic()
                    self._tell()
        finally:
            stop.set()
            breaker.join()

    def _settle(self, baseline: Counter[str]) -> None:
        """Wait until there is what was there before, and nothing that nobody owns."""

        def differs() -> dict[str, tuple[int, int]]:
            now = count_objects(self.kubectl, f"{OWNERS},{CHILDREN}")
            return {kind: (baseline[kind], now[kind]) for kind in now | baseline if now[kind] != baseline[kind]}

        try:
            eventually("all is as before", lambda: not differs() and not orphans(self.kubectl), seconds=SETTLE_SECONDS)
        except AssertionError:
            self.record.problem(f"objects by kind, before and now: {differs()}")

    def _tell(self) -> None:
        """Read the gauges, and say in a line how it goes."""
        objects = count_objects(self.kubectl, OWNERS)
        children = count_objects(self.kubectl, CHILDREN).total()
        self.peak = max(self.peak, children)
        held = self.operator.read()
        self.server.read()
        counts, new = self.record.counts, self.record.faults[self._told :]
        self._told += len(new)
        asked = [line for line in self.load.log().splitlines() if "asked" in line][-1:]
        minutes, seconds = divmod(int(time.monotonic() - self.began), 60)
        parts = [
            f"{counts['created']} objects created, {counts['edited']} edits, {counts['deleted']} deleted",
            f"now {objects.total()} with {children} children",
            f"the operator holds {held.memory:.0f} MiB, {held.files} files, {held.threads} threads"
            if held
            else "the operator is away",
            f"requests: {''.join(asked)}",
            *(f"{what}, {ended - began:.0f} s" for began, ended, what in new),
        ]
        print(f"[{minutes:3d}:{seconds:02d}] {'; '.join(parts)}", flush=True)

    def _figures(self, outcome: Outcome) -> dict[str, Any]:
        operator = eventually("an operator works", lambda: leader(self.system), seconds=SETTLE_SECONDS)
        return {
            "minutes": round(self.seconds / 60, 1),
            "seed": self.seed,
            **{name: self.record.counts[name] for name in ("created", "edited", "deleted")},
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

    def _judge(self, outcome: Outcome, found: dict[str, Any]) -> None:
        """Say what of the figures is wrong."""
        if outcome.wrong_count:
            self.record.problem(f"{outcome.wrong_count} of {outcome.requests} requests failed; the first:")
        for failure in outcome.wrong:
            moment = float(failure.partition(" ")[0])
            self.record.problem(f"request {failure} ({self.record.meanwhile(moment)})")
        for name in ("orphans", "alarms", "restarts", "missedChanges"):
            if found[name]:
                self.record.problem(f"{name}: {found[name]}")
        for leak in (*self.operator.leaks(), *self.server.leaks()):
            self.record.problem(leak)


def clean(kubectl: Kubectl) -> None:
    """Remove the namespace, which must go, and the files that it left in the store."""
    kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=300s")
    for folder in (RAW, f"s3://bloomery/models/{NAMESPACE}", f"s3://bloomery/datasets/{NAMESPACE}"):
        remove_files(folder)


def main() -> int:
    """Run it; 1 where something was found wrong."""
    minutes, seed = float(os.environ.get("MINUTES", "30")), int(os.environ.get("SEED", "1"))
    # What ends it from outside ends it as Ctrl-C does: MLflow and the store are brought back first.
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
            found = soak.run()
    finally:
        clean(soak.kubectl)
    print(json.dumps(found, ensure_ascii=False))
    return 1 if found["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
