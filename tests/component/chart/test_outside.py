"""Values of the chart for servers outside of the cluster: private CAs, a forward proxy, stores of other kinds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.component.chart.rendering import (
    NAMESPACE,
    OWN_EVERYTHING,
    Chart,
    Object,
    Values,
    environment,
    of_kind,
    only_container,
)

pytestmark = pytest.mark.feature("O6")

TRUSTED: Values = {"trustedCAs": {"configMap": "cas"}}
PROXIED: Values = {"proxy": {"httpsProxy": "http://proxy.example.com:3128", "noProxy": ["minio.team", "10.9.0.0/16"]}}


@pytest.fixture(scope="session")
def chart(program: Callable[[str], Path]) -> Chart:
    return Chart(program("helm"))


def with_own_store(**storage: str) -> Values:
    return {"storage": {"bundled": False, "accessKey": "key", "secretKey": "secret", **storage}}


def storage_secret(manifests: list[Object]) -> dict[str, str]:
    values: dict[str, str] = of_kind(manifests, "Secret")["default/bloomery-storage"]["stringData"]
    return values


@pytest.mark.parametrize("deployment", ["bloomery-operator", "bloomery-mlflow"])
def test_certificates_are_mounted_into_the_charts_own_pods(chart: Chart, deployment: str) -> None:
    manifests = chart.render(TRUSTED)
    container = only_container(manifests, deployment)
    folder = environment(manifests, deployment)["BLOOMERY_CA_FOLDER"]
    assert {"name": "trusted-cas", "mountPath": folder, "readOnly": True} in container["volumeMounts"]
    pod = of_kind(manifests, "Deployment")[f"{NAMESPACE}/{deployment}"]["spec"]["template"]["spec"]
    assert {"name": "trusted-cas", "configMap": {"name": "cas", "optional": True}} in pod["volumes"]


def test_operator_is_to_mount_the_certificates_into_all_other_pods(chart: Chart) -> None:
    assert environment(chart.render(TRUSTED), "bloomery-operator")["BLOOMERY_CA_CONFIG_MAP"] == "cas"


def test_proxy_is_never_used_for_the_cluster_and_private_networks(chart: Chart) -> None:
    manifests = chart.render(PROXIED)
    operator, mlflow = (environment(manifests, f"bloomery-{name}") for name in ("operator", "mlflow"))
    assert operator["BLOOMERY_HTTPS_PROXY"] == mlflow["HTTPS_PROXY"] == mlflow["https_proxy"]
    assert operator["BLOOMERY_NO_PROXY"] == mlflow["NO_PROXY"] == mlflow["no_proxy"]
    excluded = set(operator["BLOOMERY_NO_PROXY"].split(","))
    assert {"localhost", ".svc", ".cluster.local", "10.0.0.0/8", "fc00::/7", "minio.team", "10.9.0.0/16"} <= excluded
    assert "HTTP_PROXY" not in mlflow
    # The operator itself connects to pods, by their addresses.
    assert not {"HTTPS_PROXY", "https_proxy"} & operator.keys()


def test_policies_let_pods_reach_the_proxy(chart: Chart) -> None:
    manifests = chart.render(PROXIED | {"networkPolicy": {"enabled": True}})
    policies = of_kind(manifests, "NetworkPolicy")
    for name in (f"{NAMESPACE}/bloomery-operator", f"{NAMESPACE}/bloomery-mlflow", "default/bloomery-training"):
        assert {"ports": [{"port": 3128}]} in policies[name]["spec"]["egress"]


@pytest.mark.parametrize("values", [{}, OWN_EVERYTHING], ids=["bundled", "own"])
def test_pods_have_neither_without_the_values(chart: Chart, values: Values) -> None:
    manifests = chart.render(values)
    names = {name for name in environment(manifests, "bloomery-operator") if "PROXY" in name or "_CA_" in name}
    assert names == set()


@pytest.mark.parametrize(
    ("endpoint", "style"),
    [
        ("https://s3.example.com", "path"),
        ("https://oss-cn-hangzhou.aliyuncs.com", "virtual"),
        ("https://cos.ap-beijing.myqcloud.com/", "virtual"),
        ("https://obs.eu-de.myhuaweicloud.com:443", "virtual"),
        ("https://tos-s3-cn-beijing.volces.com", "virtual"),
        ("https://aliyuncs.com.example.com", "path"),
    ],
)
def test_mlflow_names_the_bucket_where_the_store_expects_it(chart: Chart, endpoint: str, style: str) -> None:
    manifests = chart.render(with_own_store(endpoint=endpoint))
    assert environment(manifests, "bloomery-mlflow")["MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE"] == style
    # Pods of trainings and services find out by themselves.
    assert "AWS_S3_ADDRESSING_STYLE" not in storage_secret(manifests)


def test_chosen_style_is_that_of_mlflow_and_of_the_secret(chart: Chart) -> None:
    manifests = chart.render(with_own_store(endpoint="https://s3.example.com", addressingStyle="virtual"))
    assert environment(manifests, "bloomery-mlflow")["MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE"] == "virtual"
    assert storage_secret(manifests)["AWS_S3_ADDRESSING_STYLE"] == "virtual"


def test_mlflow_listens_on_all_addresses_of_both_families(chart: Chart) -> None:
    # uvicorn takes an empty host for all addresses; :: would be IPv6 alone, 0.0.0.0 IPv4 alone.
    assert "--host=" in only_container(chart.render({}), "bloomery-mlflow")["args"]
