"""The Grafana dashboard asks only for metrics, and their labels, that the code has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from bloomery_operator.metrics import ObjectPhase, OperatorMetrics
from bloomery_trainer.progress_server import Progress, ProgressServer
from tests.unit.docs.figures import progress_figures, served_metrics

REPO = Path(__file__).resolve().parents[3]
DASHBOARD: dict[str, Any] = json.loads((REPO / "charts/bloomery/files/dashboard.json").read_text(encoding="utf-8"))
BY_PROMETHEUS = {"namespace", "pod"}
"""Labels of every series of a pod."""
BY_MONITORS = {"dataset", "trainingjob", "inferenceservice", "variant"}
"""Labels that the chart's PodMonitors add."""

_METRIC = re.compile(r"(bloomery_[a-z_]+)(?:\{([^}]*)\})?")
_VALUES = re.compile(r"^label_values\((bloomery_\w+)(?:\{.*\})?, (\w+)\)$")
_LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")


def queries() -> Iterator[tuple[str, str]]:
    """Yield title and query of each target of each panel."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


def metrics_of_the_operator() -> str:
    metrics = OperatorMetrics()
    metrics.count_objects(lambda: [ObjectPhase("Dataset", "demo", "Ready")])
    metrics.events.labels("Job").inc()
    metrics.missed_changes.labels("Job").inc()
    with metrics.time_reconcile("Dataset"):
        pass
    return metrics.exposition().decode()


def metrics_of_a_server() -> str:
    return generate_latest(served_metrics().registry).decode()


def metrics_of_a_trainer(kind: str) -> str:
    """Return the metrics of a trainer that has every figure which its code ever sets."""
    figures = dict.fromkeys(progress_figures(kind), 1)
    server = ProgressServer(Progress(**figures), kind=kind, port=0)
    server.start()
    try:
        return httpx.get(f"http://127.0.0.1:{server.port}/metrics").text
    finally:
        server.stop()


@pytest.fixture(scope="module")
def known() -> dict[str, set[str]]:
    """The labels of every sample that the parts show."""
    texts = (
        metrics_of_the_operator(),
        metrics_of_a_server(),
        metrics_of_a_trainer("train"),
        metrics_of_a_trainer("prepare"),
    )
    labels: dict[str, set[str]] = {}
    for text in texts:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels.setdefault(sample.name, set()).update(sample.labels)
    return labels


def test_every_query_asks_for_metrics_and_labels_that_exist(known: dict[str, set[str]]) -> None:
    used = [(title, metric, labels) for title, query in queries() for metric, labels in _METRIC.findall(query)]
    assert len(used) > 30
    for title, metric, labels in used:
        assert metric in known, title
        assert set(_LABEL.findall(labels)) <= known[metric] | BY_PROMETHEUS, (title, metric)


def test_every_grouping_is_by_labels_that_exist(known: dict[str, set[str]]) -> None:
    labels = set().union(*known.values()) | BY_PROMETHEUS | BY_MONITORS
    for title, query in queries():
        for group in re.findall(r"(?:by|on|group_left) ?\(([^)]*)\)", query):
            assert set(group.split(", ")) <= labels, title


def test_the_variables_are_filled_from_metrics_that_exist(known: dict[str, set[str]]) -> None:
    variables = {variable["name"]: variable["query"] for variable in DASHBOARD["templating"]["list"]}
    assert variables.keys() == {"datasource", "namespace", "service"}
    for name in ("namespace", "service"):
        ((metric, label),) = _VALUES.findall(variables[name]["query"])
        assert label in known[metric]


@pytest.mark.parametrize(
    "title",
    [
        "Training jobs by phase",
        "Queue",
        "Reconcile time, 99th percentile",
        "Images a second",
        "Predictions a second, by variant and model",
        "Predictions a second, by status code",
        "Predictions a second, by key",
        "Answer time, median",
        "Answer time, 99th percentile",
        "Predictions that wait or run",
        "Batch size",
        "Pods by model",
        "Predictions by class",
        "Confidence",
        "Unknown",
        "Drift of classes",
        "Drift of confidence",
        "Drift of brightness",
        "Live accuracy",
        "Captures a second, by reason",
        "Captures dropped a second, by cause",
    ],
)
def test_what_people_look_for_has_a_panel(title: str) -> None:
    assert title in dict(queries())


def test_panels_lie_side_by_side_and_none_on_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
