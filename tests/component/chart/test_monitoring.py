"""The chart's objects for Prometheus and Grafana, compared with the operator's pods."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.component.chart.rendering import NAMESPACE, REPO, WATCHED, Chart, Object, of_kind, selects

PODS = {
    template["metadata"]["labels"]["app.kubernetes.io/name"]: template
    for file in sorted((REPO / "tests" / "golden").glob("*.yaml"))
    for manifest in yaml.safe_load_all(file.read_text(encoding="utf-8"))
    if manifest["kind"] in {"Job", "Deployment"}
    for template in [manifest["spec"]["template"]]
}


@pytest.fixture(scope="module")
def chart(program: Callable[[str], Path]) -> Chart:
    return Chart(program("helm"))


@pytest.fixture(scope="module")
def manifests(chart: Chart) -> list[Object]:
    return chart.render(WATCHED)


def test_there_is_nothing_of_it_unless_it_is_asked_for(chart: Chart) -> None:
    kinds = {manifest["kind"] for manifest in chart.render({})}
    assert not kinds & {"ServiceMonitor", "PodMonitor"}
    assert not of_kind(chart.render({}), "ConfigMap")


@pytest.mark.parametrize(("role", "monitor"), {"prepare": "training", "train": "training", "serve": "serving"}.items())
def test_prometheus_reads_each_pod_with_metrics_at_one_of_its_ports(
    manifests: list[Object], role: str, monitor: str
) -> None:
    pod, monitors = PODS[role], of_kind(manifests, "PodMonitor")
    reading = {name for name, m in monitors.items() if selects(m["spec"]["selector"], pod["metadata"]["labels"])}
    assert reading == {f"{NAMESPACE}/bloomery-{monitor}"}
    (endpoint,) = monitors[f"{NAMESPACE}/bloomery-{monitor}"]["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in {port["name"] for port in pod["spec"]["containers"][0]["ports"]}


def test_a_series_says_which_object_it_is_of(manifests: list[Object]) -> None:
    for name, roles in (("training", ("prepare", "train")), ("serving", ("serve",))):
        (endpoint,) = of_kind(manifests, "PodMonitor")[f"{NAMESPACE}/bloomery-{name}"]["spec"]["podMetricsEndpoints"]
        sources = {
            rule["sourceLabels"][0].removeprefix("__meta_kubernetes_pod_label_") for rule in endpoint["relabelings"]
        }
        labels = {
            label.replace(".", "_").replace("/", "_") for role in roles for label in PODS[role]["metadata"]["labels"]
        }
        assert sources <= labels


def test_prometheus_reads_the_operator_by_its_service(manifests: list[Object]) -> None:
    (monitor,) = of_kind(manifests, "ServiceMonitor").values()
    service = of_kind(manifests, "Service")[f"{NAMESPACE}/bloomery-operator"]
    assert selects(monitor["spec"]["selector"], service["metadata"]["labels"])
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    # A metric's own label `namespace` is the object's, not the operator's.
    assert endpoint["honorLabels"] is True


def test_monitors_carry_the_labels_by_which_a_prometheus_selects(manifests: list[Object]) -> None:
    for kind in ("ServiceMonitor", "PodMonitor"):
        for monitor in of_kind(manifests, kind).values():
            assert monitor["metadata"]["labels"]["release"] == "prometheus"


def test_pods_are_looked_for_where_the_operator_works(chart: Chart) -> None:
    def where(values: Object) -> list[Object]:
        return [m["spec"]["namespaceSelector"] for m in of_kind(chart.render(values), "PodMonitor").values()]

    assert where(WATCHED) == [{"any": True}] * 2
    assert where({**WATCHED, "namespaces": ["team-a"]}) == [{"matchNames": ["team-a"]}] * 2


def test_grafana_finds_the_dashboard_as_its_sidecar_looks_for_it(chart: Chart) -> None:
    dashboard = {"enabled": True, "namespace": "monitoring"}
    made = of_kind(chart.render({"monitoring": {"dashboard": dashboard}}), "ConfigMap")
    config_map = made["monitoring/bloomery-dashboard"]
    assert config_map["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(config_map["data"]["bloomery.json"])["title"] == "Bloomery"


@pytest.mark.feature("S18")
def test_alerts_exist_only_if_asked_for_and_have_their_limits(chart: Chart) -> None:
    assert not of_kind(chart.render(WATCHED), "PrometheusRule")
    values = {"monitoring": {"labels": {"release": "prometheus"}, "alerts": {"enabled": True, "drift": 0.4}}}
    (rule,) = of_kind(chart.render(values), "PrometheusRule").values()
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    alerts = {alert["alert"]: alert["expr"] for alert in rule["spec"]["groups"][0]["rules"]}
    assert alerts.keys() == {
        "BloomeryClassDrift",
        "BloomeryConfidenceDrift",
        "BloomeryBrightnessDrift",
        "BloomeryManyUnknown",
    }
    assert alerts["BloomeryConfidenceDrift"].endswith("> 0.4")


@pytest.mark.feature("S18")
def test_each_alert_has_lines_in_the_runbook(chart: Chart) -> None:
    runbook = (REPO / "docs/operations.md").read_text(encoding="utf-8")
    (rule,) = of_kind(chart.render({"monitoring": {"alerts": {"enabled": True}}}), "PrometheusRule").values()
    for alert in rule["spec"]["groups"][0]["rules"]:
        assert f"| `{alert['alert']}` |" in runbook
