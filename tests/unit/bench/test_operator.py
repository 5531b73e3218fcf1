"""The figures of `make bench-operator`."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.kubeflow import raised
from bench.observe import Processors
from bench.ours import OurOperator
from bench.scale import table, unsettled

BUSY = {"each": {"kube-apiserver": 1.1, "bloomery_operator": 0.6}, "most": "kube-apiserver", "busy": 0.85}


def row(*stages: str) -> dict[str, Any]:
    seconds = dict.fromkeys(stages, 2.0)
    rates = dict.fromkeys(stages, 50.0)
    costs = {"callsEach": 8.0, "cpuMillisecondsEach": 9.0, "peakMiB": 120.0}
    return {"seconds": {"created": 1.0, **seconds}, "perSecond": rates, **costs, "processors": BUSY}


def build_result(*, errors: int = 0, changed: tuple[str, ...] = ()) -> dict[str, Any]:
    life = {"cpuSeconds": 1.0, "calls": 9, "peakMiB": 130.0, "seconds": 2.0, "processors": BUSY}
    mine = {
        "jobs": row("jobs", "pods", "done"),
        "services": row("deployments", "routes", "done"),
        "edits": {"p50": 0.1, "p95": 0.2, "callsEach": 3.0, "processors": BUSY},
        "restart": life | {"errors": errors, "changedStatuses": list(changed)},
        "peakMiB": 120.0,
    }
    peers = {"defaults": row("pods", "done"), "raised": row("pods", "done")}
    ratios = {"defaults": {"pods": 4.0, "done": 3.0}, "raised": {"pods": 1.25, "done": 1.5}}
    return {"jobs": 100, "services": 30, "bloomery": mine, "trainingOperator": peers, "ofTrainingOperator": ratios}


def test_table_shows_both_peers_with_ratios_and_bottleneck() -> None:
    shown = "\n".join(table(build_result()))

    assert "PyTorchJobs, defaults" in shown and "PyTorchJobs, raised" in shown
    assert "pods 4.00, done 3.00" in shown and "pods 1.25, done 1.50" in shown
    assert "jobs 2.0 s (50.0/s), pods 2.0 s" in shown and "deployments 2.0 s" in shown
    assert shown.count("processors 85% busy, most by kube-apiserver (1.10)") == 6


def test_restart_that_changed_statuses_is_reported() -> None:
    assert list(unsettled([build_result()])) == []
    (sentence,) = unsettled([build_result(errors=2, changed=("trainingjobs/a", "trainingjobs/b"))])
    assert "2 reconciles failed" in sentence and "2 statuses changed, such as trainingjobs/a" in sentence


def test_busiest_program_is_named() -> None:
    processors = Processors()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as child:
        time.sleep(1.0)
        seen = processors.figures()
        child.kill()

    assert seen["most"] == Path(sys.executable).name
    assert seen["busy"] > 0


def test_peers_rate_limit_is_raised_in_its_client() -> None:
    line = "\tmgr, err := ctrl.NewManager(ctrl.GetConfigOrDie(), ctrl.Options{"

    assert raised(line).splitlines() == [
        "\tasking := ctrl.GetConfigOrDie()",
        "\tasking.QPS, asking.Burst = 300, 500",
        "\tmgr, err := ctrl.NewManager(asking, ctrl.Options{",
    ]
    with pytest.raises(SystemExit):
        raised("\tmgr, err := ctrl.NewManager(config, ctrl.Options{")


class ScriptedOperator(OurOperator):
    """An operator with scripted metrics."""

    def __init__(self, answers: Iterator[tuple[int, int, int]]) -> None:
        self._answers = answers

    def _read(self) -> dict[str, float]:
        depth, success, error = next(self._answers)
        return {
            "bloomery_workqueue_depth": depth,
            'bloomery_reconcile_total{kind="Dataset",result="success"}': success,
            'bloomery_reconcile_total{kind="Dataset",result="error"}': error,
        }


def test_pending_retry_is_not_settled() -> None:
    def answers() -> Iterator[tuple[int, int, int]]:
        yield from [(3, 0, 0), (0, 10, 0), (0, 10, 0), (0, 10, 0)]
        failed.append(time.monotonic())
        while True:
            yield (0, 10, 1)

    failed: list[float] = []
    assert ScriptedOperator(answers()).wait_until_settled(reconciles=10) > failed[0]
