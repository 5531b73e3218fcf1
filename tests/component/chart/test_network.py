"""The chart's NetworkPolicies, as golden YAML: the network of the tests' cluster enforces none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bloomery_operator.domain.ports import COMPARE_PORT, HTTP_PORT, METRICS_PORT, PROGRESS_PORT
from bloomery_operator.domain.served_model import ServedModel
from bloomery_operator.manifests import predict_job, prepare_job, register_job, tensorboard, train_job
from bloomery_operator.manifests.deployment import build_deployment
from bloomery_operator.manifests.job import build_job
from tests.component.chart.rendering import (
    GUARDED,
    GUARDED_IN_DETAIL,
    REPO,
    Chart,
    Object,
    of_kind,
    pod_templates,
    selects,
)
from tests.unit.operator.samples import batch_prediction, dataset, inference_service, settings, training_job

GOLDEN = REPO / "tests" / "golden"
HERE = "default"


@pytest.fixture(scope="module")
def chart(program: Callable[[str], Path]) -> Chart:
    return Chart(program("helm"))


@pytest.fixture(scope="module")
def policies(chart: Chart) -> dict[str, Object]:
    return of_kind(chart.render(GUARDED), "NetworkPolicy")


@pytest.mark.parametrize(
    ("name", "values"), [("chart-network", GUARDED), ("chart-network-detailed", GUARDED_IN_DETAIL)]
)
def test_policies_are_as_reviewed(request: pytest.FixtureRequest, chart: Chart, name: str, values: Any) -> None:
    manifests = of_kind(chart.render(values), "NetworkPolicy").values()
    for manifest in manifests:
        del manifest["metadata"]["labels"]
    text = yaml.safe_dump_all(manifests, sort_keys=False, width=120)
    path = GOLDEN / f"{name}.yaml"
    # The flag is defined in tests/unit/operator: name that folder, too, to rewrite the file.
    if request.config.getoption("--regen-golden", default=False):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), f"{path.name} differs: --regen-golden, and review the diff"


def test_there_are_none_unless_they_are_asked_for(chart: Chart) -> None:
    assert not of_kind(chart.render({}), "NetworkPolicy")


def test_every_pod_of_the_chart_has_a_policy(chart: Chart) -> None:
    manifests = chart.render(GUARDED)
    policies = of_kind(manifests, "NetworkPolicy")
    for name, template in pod_templates(manifests):
        assert guarding(policies, template["metadata"]["labels"], "bloomery-system"), name


def children() -> dict[str, dict[str, str]]:
    """The labels of the pods that the operator makes, by their role."""
    service = inference_service()
    served = build_deployment(
        service, service.spec.variants[0], ServedModel(uri="s3://bloomery/model"), settings(), replicas=1
    )
    training, preparation = training_job(), dataset()
    board, _ = tensorboard.build_tensorboard(training, settings())
    task = train_job.build_task(training, [], None, settings(), stop_token="secret")
    jobs = (
        build_job(preparation, prepare_job.build_task(preparation, settings()), settings()),
        build_job(training, task, settings()),
        predict_job.build_job(batch_prediction(), ServedModel(uri="s3://bloomery/model"), settings()),
        build_job(training, register_job.build_task(training, "hash"), settings()),
    )
    labels = [manifest["spec"]["template"]["metadata"]["labels"] for manifest in (served, board, *jobs)]
    return {label["app.kubernetes.io/name"]: label for label in labels}


CHILDREN = children()


def guarding(policies: dict[str, Object], labels: dict[str, str], namespace: str) -> set[str]:
    """The names of the policies that select a pod."""
    return {
        policy["metadata"]["name"]
        for policy in policies.values()
        if policy["metadata"]["namespace"] == namespace and selects(policy["spec"]["podSelector"], labels)
    }


@pytest.mark.parametrize(
    ("role", "names"),
    {
        "predict": {"training"},
        "prepare": {"training"},
        "register": {"training"},
        "serve": {"serving"},
        "tensorboard": {"tensorboard"},
        "train": {"training", "peers"},
    }.items(),
)
def test_the_operators_pods_are_denied_all_but_what_their_role_needs(
    policies: dict[str, Object], role: str, names: set[str]
) -> None:
    assert guarding(policies, CHILDREN[role], HERE) == {f"bloomery-{name}" for name in names | {"deny"}}
    assert policies[f"{HERE}/bloomery-deny"]["spec"].keys() == {"podSelector", "policyTypes"}


def test_store_and_mlflow_take_all_of_the_operators_pods_and_kits(policies: dict[str, Object]) -> None:
    for part in ("storage", "mlflow"):
        (rule,) = policies[f"bloomery-system/bloomery-{part}"]["spec"]["ingress"]
        workers = next(peer for peer in rule["from"] if "matchExpressions" in peer["podSelector"])
        for labels in (*CHILDREN.values(), {"app.kubernetes.io/name": "kit"}):
            assert selects(workers["podSelector"], labels)


@pytest.mark.feature("O7")
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (GUARDED, ["default"]),
        (GUARDED | {"storage": {"secretNamespaces": ["team-a", "team-b"]}}, ["team-a", "team-b"]),
        ({"networkPolicy": {"enabled": True, "namespaces": ["team-a"]}}, ["team-a"]),
        ({"namespaces": ["a", "b"], "networkPolicy": {"enabled": True, "namespaces": ["a"]}}, ["a"]),
    ],
)
def test_store_and_mlflow_take_pods_of_policed_namespaces_only(chart: Chart, values: Any, expected: list[str]) -> None:
    """Anyone can give a pod of another namespace the labels of a kit."""
    policies = of_kind(chart.render(values), "NetworkPolicy")
    for part in ("storage", "mlflow"):
        (rule,) = policies[f"bloomery-system/bloomery-{part}"]["spec"]["ingress"]
        for peer in rule["from"]:
            if "matchExpressions" in peer["podSelector"]:
                (expression,) = peer["namespaceSelector"]["matchExpressions"]
                assert (expression["key"], expression["values"]) == ("kubernetes.io/metadata.name", expected)
            else:
                assert peer["namespaceSelector"] == {"matchLabels": {"kubernetes.io/metadata.name": "bloomery-system"}}


@pytest.mark.feature("O7")
def test_operator_and_pods_reach_the_ports_of_listed_mlflows(chart: Chart) -> None:
    listed = {"mlflow": {"allowedAddresses": ["https://mlflow.example.com:8443"]}}
    policies = of_kind(chart.render(GUARDED | listed), "NetworkPolicy")
    for name in ("bloomery-system/bloomery-operator", "default/bloomery-training", "default/bloomery-serving"):
        assert {"ports": [{"port": 8443}]} in policies[name]["spec"]["egress"]


def test_ports_are_those_that_the_pods_listen_on(policies: dict[str, Object]) -> None:
    def ports(name: str) -> set[int]:
        rules = policies[f"{HERE}/bloomery-{name}"]["spec"]["ingress"]
        return {port["port"] for rule in rules for port in rule["ports"]}

    assert ports("training") == {PROGRESS_PORT}
    assert ports("serving") == {HTTP_PORT, METRICS_PORT, COMPARE_PORT}


def test_training_pods_reach_public_https_only(
    policies: dict[str, Object],
) -> None:
    """Private networks and the cloud's metadata stay out of reach."""
    rules = policies[f"{HERE}/bloomery-training"]["spec"]["egress"]
    (public,) = [rule for rule in rules if any("ipBlock" in peer for peer in rule.get("to", []))]
    assert public["ports"] == [{"port": 443}]
    assert {"10.0.0.0/8", "169.254.0.0/16"} <= set(public["to"][0]["ipBlock"]["except"])


def test_policies_go_where_the_operator_works(chart: Chart) -> None:
    def namespaces(values: dict[str, Any]) -> set[str]:
        rendered = of_kind(chart.render(values), "NetworkPolicy")
        return {name.split("/")[0] for name in rendered if name.endswith("-deny")}

    assert namespaces({**GUARDED, "namespaces": ["team-a", "team-b"]}) == {"team-a", "team-b"}
    assert namespaces({**GUARDED, "storage": {"secretNamespaces": ["team-c"]}}) == {"team-c"}
    assert namespaces({"networkPolicy": {"enabled": True, "namespaces": ["team-d"]}}) == {"team-d"}


@pytest.mark.parametrize(
    ("url", "port"),
    {
        "postgresql+psycopg2://u:p@db:6543/mlflow": 6543,
        "postgresql://u:p@db/mlflow": 5432,
        "mysql://db/mlflow": 3306,
    }.items(),
)
def test_mlflow_may_reach_its_databases_port(chart: Chart, url: str, port: int) -> None:
    policies = of_kind(chart.render({**GUARDED, "mlflow": {"backendStoreUri": url}}), "NetworkPolicy")
    assert {"ports": [{"port": port}]} in policies["bloomery-system/bloomery-mlflow"]["spec"]["egress"]
