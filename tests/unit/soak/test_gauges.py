"""Leaks and orphans of the soak test."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from unittest.mock import create_autospec

import pytest

from testing.dev_cluster import Kubectl
from tests.soak.gauges import Watched, orphans

SAMPLES = 40
STEADY = {"memory": 80.0, "files": 20, "threads": 4}


def watched(samples: Iterable[Mapping[str, float]], *, pods: Iterable[str] = ()) -> Watched:
    """Watch pods with these samples of usage; ``pods`` are the names of the pods, one for each sample."""
    kubectl, names = create_autospec(Kubectl, instance=True), iter(pods)
    gauge = Watched(kubectl, "the operator", lambda: next(names, "operator-a"))
    kubectl.run.return_value.returncode = 0
    for sample in samples:
        kubectl.run.return_value.stdout = json.dumps(sample)
        gauge.read()
    return gauge


def test_steady_process_leaks_nothing_after_warming_up() -> None:
    warming = [{**STEADY, "memory": 80.0 + min(number, 10) * 3} for number in range(SAMPLES)]
    assert watched(warming).leaks() == []


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"memory": 1.0}, "memory of the operator grew by 2"),
        ({"files": 1}, "the operator had 34 open files and has 54"),
        ({"threads": 1}, "the operator had 18 threads and has 38"),
    ],
)
def test_steady_growth_is_a_leak(more: Mapping[str, float], message: str) -> None:
    growing = [STEADY | {name: STEADY[name] + number * by for name, by in more.items()} for number in range(SAMPLES)]
    (sentence,) = watched(growing).leaks()
    assert sentence.startswith(message)


def test_memory_of_replaced_pod_is_not_compared() -> None:
    small, large = [STEADY] * 20, [STEADY | {"memory": 120.0}] * 20
    assert watched([*small, *large], pods=["operator-a"] * 20 + ["operator-b"] * 20).leaks() == []


def test_objects_without_owner_are_orphans() -> None:
    ours = {"app.kubernetes.io/managed-by": "bloomery"}
    kubectl = create_autospec(Kubectl, instance=True)
    kubectl.get.return_value = [
        {"kind": "TrainingJob", "metadata": {"name": "job", "uid": "1"}},
        {"kind": "Job", "metadata": {"name": "owned", "uid": "2", "ownerReferences": [{"uid": "1"}]}},
        {"kind": "Job", "metadata": {"name": "left", "uid": "3", "ownerReferences": [{"uid": "0"}]}},
        {"kind": "Secret", "metadata": {"name": "made", "uid": "4", "labels": ours}},
        {"kind": "Secret", "metadata": {"name": "users-own", "uid": "5"}},
    ]
    assert orphans(kubectl) == ["Job left", "Secret made"]
