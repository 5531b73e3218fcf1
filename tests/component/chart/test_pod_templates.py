"""Nodes, labels and annotations of the chart's own pods, and the registry's Secrets of all pods."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.component.chart.rendering import Chart, Values, environment, pod_templates

if TYPE_CHECKING:
    from testing.api_server import ApiServer

pytestmark = pytest.mark.feature("O6")

EVERYTHING: Values = {
    "labels": {"team": "ml", "app.kubernetes.io/name": "another"},
    "annotations": {"example.com/note": "x"},
    "nodeSelector": {"pool": "ml"},
    "tolerations": [{"key": "dedicated", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "Exists"}]}]
            }
        }
    },
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {}}
    ],
    "priorityClassName": "system-cluster-critical",
}
SCHEDULING = ("nodeSelector", "tolerations", "affinity", "topologySpreadConstraints", "priorityClassName")


@pytest.fixture(scope="module")
def chart(program: Callable[[str], Path]) -> Chart:
    return Chart(program("helm"))


def test_pod_template_applies_to_every_pod_of_the_chart(chart: Chart) -> None:
    plain = dict(pod_templates(chart.render({})))
    templates = dict(pod_templates(chart.render({"podTemplate": EVERYTHING})))
    assert templates.keys() == {"bloomery-operator", "bloomery-mlflow", "bloomery-storage", "bloomery-bucket"}
    for name, template in templates.items():
        assert {field: template["spec"][field] for field in SCHEDULING} == {f: EVERYTHING[f] for f in SCHEDULING}, name
        assert template["metadata"]["annotations"]["example.com/note"] == "x", name
        # Labels of the selectors stay.
        assert template["metadata"]["labels"] == plain[name]["metadata"]["labels"] | {"team": "ml"}, name
        assert plain[name]["metadata"].get("annotations", {}).keys() <= template["metadata"]["annotations"].keys()


def test_pod_template_of_one_part_wins_over_that_of_all(chart: Chart) -> None:
    values = {
        "podTemplate": {"nodeSelector": {"pool": "ml", "disk": "any"}, "priorityClassName": "low"},
        "mlflow": {"podTemplate": {"nodeSelector": {"disk": "ssd"}}},
        "storage": {"podTemplate": {"priorityClassName": "high"}},
    }
    pods = {name: template["spec"] for name, template in pod_templates(chart.render(values))}
    assert pods["bloomery-mlflow"]["nodeSelector"] == {"pool": "ml", "disk": "ssd"}
    assert pods["bloomery-operator"]["nodeSelector"] == {"pool": "ml", "disk": "any"}
    classes = {name: pod["priorityClassName"] for name, pod in pods.items()}
    assert classes == dict.fromkeys(("bloomery-storage", "bloomery-bucket"), "high") | dict.fromkeys(
        ("bloomery-mlflow", "bloomery-operator"), "low"
    )


def test_real_api_server_takes_pods_with_every_addition(chart: Chart, apiserver: ApiServer, namespace: str) -> None:
    for name, template in pod_templates(chart.render({"podTemplate": EVERYTHING})):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name} | template["metadata"]}
        pod["spec"] = template["spec"]
        done = apiserver.kubectl(
            "create", "--dry-run=server", "--validate=strict", "-n", namespace, "-f", "-", input=pod
        )
        assert done.returncode == 0, done.stderr


def test_field_that_is_none_of_a_pod_template_is_refused(chart: Chart) -> None:
    done = chart.try_to_render({"operator": {"podTemplate": {"nodeSelectors": {"pool": "ml"}}}})
    assert done.returncode != 0
    assert "nodeSelectors" in done.stderr


def test_operator_gets_the_settings_of_workloads(chart: Chart) -> None:
    values = {"images": {"workloadPullSecrets": ["registry", "mirror"]}, "serving": {"maxConcurrentUpdates": 2}}
    known = environment(chart.render(values), "bloomery-operator")
    assert (known["BLOOMERY_PULL_SECRETS"], known["BLOOMERY_SERVING_UPDATES"]) == ("registry,mirror", "2")
    default = environment(chart.render({}), "bloomery-operator")
    assert not {"BLOOMERY_PULL_SECRETS", "BLOOMERY_SERVING_UPDATES", "BLOOMERY_PLATFORM_IDS"} & default.keys()
