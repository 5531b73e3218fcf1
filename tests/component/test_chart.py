"""The Helm chart: what it makes, what it refuses, and that a real API server takes it."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import httpx
import pytest
import yaml

if TYPE_CHECKING:
    from tests.component.conftest import ApiServer

Object: TypeAlias = dict[str, Any]
Values: TypeAlias = dict[str, Any]

REPO = Path(__file__).resolve().parents[2]
CHART = REPO / "charts" / "bloomery"
NAMESPACE = "bloomery-system"
DEV_VALUES: Values = yaml.safe_load((REPO / "dev" / "values.yaml").read_text(encoding="utf-8"))
OWN_EVERYTHING: Values = {
    "storage": {
        "bundled": False,
        "endpoint": "https://s3.example.com",
        "region": "eu-1",
        "accessKey": "key",
        "secretKey": "secret",
        "uri": "s3://ours/bloomery/",
        "secretNamespaces": ["team-a", "team-b"],
    },
    "mlflow": {
        "bundled": False,
        "trackingUri": "https://mlflow.example.com",
        "username": "us",
        "password": "pass",
    },
    "gateway": {"name": "edge", "namespace": "infra", "publicURL": "https://models.example.com"},
    "namespaces": ["team-a", "team-b"],
}
VARIANTS: dict[str, Values] = {
    "as it comes": {},
    "on the development cluster": DEV_VALUES,
    "with one's own store, MLflow and gateway": OWN_EVERYTHING,
}


class Chart:
    """The chart, rendered as helm install would."""

    def __init__(self, helm: Path) -> None:
        self._helm = helm

    def run(self, verb: str, *args: str, values: Values) -> subprocess.CompletedProcess[str]:
        """Run helm with the values."""
        command = [str(self._helm), verb, *args, "--values", "-"]
        return subprocess.run(
            command, input=json.dumps(values), capture_output=True, text=True, timeout=60, check=False
        )

    def try_to_render(self, values: Values) -> subprocess.CompletedProcess[str]:
        """Render the chart, or be refused."""
        args = ["bloomery", str(CHART), "--namespace", NAMESPACE, "--kube-version", "1.34.4"]
        return self.run("template", *args, values=values)

    def render(self, values: Values) -> list[Object]:
        """Render the chart, which must work."""
        done = self.try_to_render(values)
        assert done.returncode == 0, done.stderr
        return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]


@pytest.fixture(scope="session")
def chart(program: Callable[[str], Path]) -> Chart:
    return Chart(program("helm"))


def of_kind(manifests: list[Object], kind: str) -> dict[str, Object]:
    """The objects of a kind by namespace/name, the namespace empty where there is none."""
    return {
        f"{manifest['metadata'].get('namespace', '')}/{manifest['metadata']['name']}": manifest
        for manifest in manifests
        if manifest["kind"] == kind
    }


def pod_templates(manifests: list[Object]) -> Iterator[tuple[str, Object]]:
    """Yield name and pod template of everything that makes pods."""
    for manifest in manifests:
        if "template" in manifest.get("spec", {}):
            yield manifest["metadata"]["name"], manifest["spec"]["template"]


def environment(manifests: list[Object], deployment: str) -> dict[str, Any]:
    """The variables of a Deployment's container that have plain values."""
    container = only_container(manifests, deployment)
    return {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}


def only_container(manifests: list[Object], deployment: str) -> Object:
    """The one container of a Deployment."""
    pod = of_kind(manifests, "Deployment")[f"{NAMESPACE}/{deployment}"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    return dict(container)


@pytest.mark.parametrize("variant", VARIANTS)
def test_helm_lint_has_nothing_to_say(chart: Chart, variant: str) -> None:
    done = chart.run("lint", str(CHART), "--strict", values=VARIANTS[variant])
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_pod_is_admitted_where_restricted_is_enforced(
    chart: Chart, apiserver: ApiServer, namespace: str, variant: str
) -> None:
    label = "pod-security.kubernetes.io/enforce=restricted"
    assert apiserver.kubectl("label", "namespace", namespace, label).returncode == 0
    templates = list(pod_templates(chart.render(VARIANTS[variant])))
    assert "bloomery-operator" in dict(templates)
    for name, template in templates:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": template["spec"]}
        done = apiserver.kubectl("create", "--dry-run=server", "-n", namespace, "-f", "-", input=pod)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_pod_has_a_read_only_root_and_only_the_operator_a_token(chart: Chart, variant: str) -> None:
    for name, template in pod_templates(chart.render(VARIANTS[variant])):
        pod = template["spec"]
        assert pod["automountServiceAccountToken"] is (name == "bloomery-operator")
        assert pod["securityContext"]["runAsUser"] == 10001
        for container in pod["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["resources"]["requests"] and container["resources"]["limits"]["memory"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_operator_may_do_nothing_by_wildcard_and_cannot_list_secrets(chart: Chart, variant: str) -> None:
    manifests = chart.render(VARIANTS[variant])
    roles = of_kind(manifests, "ClusterRole") | of_kind(manifests, "Role")
    rules = [rule for role in roles.values() for rule in role["rules"]]
    assert rules
    for rule in rules:
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
        if "secrets" in rule["resources"]:
            assert not {"list", "watch", "deletecollection"} & set(rule["verbs"])


ALLOWED = {
    "watch bloomery.dev/trainingjobs",
    "delete bloomery.dev/trainingjobs",
    "patch bloomery.dev/datasets/status",
    "update bloomery.dev/inferenceservices/finalizers",
    "create batch/jobs",
    "patch gateway.networking.k8s.io/httproutes",
    "get /secrets",
}
DENIED = {
    "list /secrets",
    "delete /secrets",
    "create /pods",
    "patch bloomery.dev/datasets",
    "delete bloomery.dev/datasets",
    "get rbac.authorization.k8s.io/clusterroles",
    "delete /namespaces",
}


def test_a_real_api_server_grants_what_the_operator_needs_and_no_more(chart: Chart, apiserver: ApiServer) -> None:
    manifests = chart.render({})
    for kind in ("ClusterRole", "ClusterRoleBinding"):
        for manifest in of_kind(manifests, kind).values():
            assert apiserver.kubectl("apply", "-f", "-", input=manifest).returncode == 0
    with apiserver.http() as client:
        deadline = time.monotonic() + 10
        while any(not may(client, action) for action in ALLOWED) and time.monotonic() < deadline:
            time.sleep(0.1)  # the API server's authorizer learns of a new role a moment later
        assert [action for action in ALLOWED if not may(client, action)] == []
        assert [action for action in DENIED if may(client, action)] == []


def may(client: httpx.Client, action: str) -> bool:
    """Ask whether the operator may do an action, given as VERB GROUP/RESOURCE[/SUBRESOURCE]."""
    verb, _, what = action.partition(" ")
    group, resource, *subresource = what.split("/")
    attributes = {"verb": verb, "group": group, "resource": resource, "subresource": "".join(subresource)}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": f"system:serviceaccount:{NAMESPACE}:bloomery-operator",
            "resourceAttributes": attributes | {"namespace": "team-a"},
        },
    }
    answer = client.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", json=review)
    return bool(answer.json()["status"]["allowed"])


def test_a_real_api_server_accepts_every_object(chart: Chart, apiserver: ApiServer, namespace: str) -> None:
    for manifest in chart.render({}):
        if "namespace" in manifest["metadata"]:
            manifest["metadata"]["namespace"] = namespace
        dry = ("apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict")
        done = apiserver.kubectl(*dry, "-f", "-", input=manifest)
        assert done.returncode == 0, f"{manifest['kind']}: {done.stderr}"


def test_the_operator_is_told_where_everything_is(chart: Chart) -> None:
    told = environment(chart.render(DEV_VALUES), "bloomery-operator")
    assert {name: value for name, value in told.items() if name.startswith("BLOOMERY_")} == {
        "BLOOMERY_TRAINER_IMAGE": "localhost/bloomery/trainer:dev",
        "BLOOMERY_SERVING_IMAGE": "localhost/bloomery/serving:dev",
        "BLOOMERY_IMAGE_PULL_POLICY": "Never",
        "BLOOMERY_STORE_URI": "s3://bloomery",
        "BLOOMERY_STORAGE_SECRET": "bloomery-storage",
        "BLOOMERY_SOURCE_NETWORKS": "",
        "BLOOMERY_NAMESPACES": "",
        "BLOOMERY_GATEWAY_NAME": "bloomery",
        "BLOOMERY_GATEWAY_NAMESPACE": NAMESPACE,
        "BLOOMERY_GATEWAY_PUBLIC_URL": "http://127.0.0.1:30080",
        "BLOOMERY_MLFLOW_PUBLIC_URL": "http://127.0.0.1:5000",
        "BLOOMERY_LOG_FORMAT": "text",
    }


def test_a_namespace_gets_the_keys_that_the_bundled_store_has(chart: Chart) -> None:
    secrets = of_kind(chart.render({"storage": {"secretNamespaces": ["team-a"]}}), "Secret")
    keys = secrets[f"{NAMESPACE}/bloomery-storage-keys"]["stringData"]
    given = secrets["team-a/bloomery-storage"]["stringData"]
    assert len(keys["AWS_SECRET_ACCESS_KEY"]) == 40
    assert given == keys | {
        "AWS_ENDPOINT_URL": f"http://bloomery-storage.{NAMESPACE}.svc:7070",
        "AWS_REGION": "us-east-1",
        "MLFLOW_TRACKING_URI": f"http://bloomery-mlflow.{NAMESPACE}.svc:5000",
    }


def test_ones_own_store_mlflow_and_gateway_are_used_and_nothing_is_bundled(chart: Chart) -> None:
    manifests = chart.render(OWN_EVERYTHING)
    assert list(of_kind(manifests, "Deployment")) == [f"{NAMESPACE}/bloomery-operator"]
    assert not of_kind(manifests, "PersistentVolumeClaim") and not of_kind(manifests, "Gateway")
    assert of_kind(manifests, "Secret")["team-b/bloomery-storage"]["stringData"] == {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_ENDPOINT_URL": "https://s3.example.com",
        "AWS_REGION": "eu-1",
        "MLFLOW_TRACKING_URI": "https://mlflow.example.com",
        "MLFLOW_TRACKING_USERNAME": "us",
        "MLFLOW_TRACKING_PASSWORD": "pass",
    }
    told = environment(manifests, "bloomery-operator")
    assert told["BLOOMERY_STORE_URI"] == "s3://ours/bloomery"
    assert (told["BLOOMERY_GATEWAY_NAME"], told["BLOOMERY_GATEWAY_NAMESPACE"]) == ("edge", "infra")


def test_named_namespaces_need_no_right_in_the_cluster(chart: Chart) -> None:
    manifests = chart.render(OWN_EVERYTHING)
    assert not of_kind(manifests, "ClusterRole") and not of_kind(manifests, "ClusterRoleBinding")
    assert of_kind(manifests, "Role").keys() == {
        "infra/bloomery-operator-gateway",
        "team-a/bloomery-operator",
        "team-b/bloomery-operator",
    }
    assert environment(manifests, "bloomery-operator")["BLOOMERY_NAMESPACES"] == "team-a,team-b"


def test_keys_that_exist_already_are_only_referred_to(chart: Chart) -> None:
    storage = {"bundled": False, "existingSecret": "ours"}
    manifests = chart.render({"storage": storage})
    assert not of_kind(manifests, "Secret")
    assert environment(manifests, "bloomery-operator")["BLOOMERY_STORAGE_SECRET"] == "ours"
    assert only_container(manifests, "bloomery-mlflow")["envFrom"] == [{"secretRef": {"name": "ours"}}]


def test_mlflow_keeps_its_records_on_a_volume_or_in_any_database(chart: Chart) -> None:
    def database(manifests: list[Object]) -> Any:
        return only_container(manifests, "bloomery-mlflow")["env"][0]

    default = chart.render({})
    assert database(default)["value"] == "sqlite:////mlflow/mlflow.db"
    assert f"{NAMESPACE}/bloomery-mlflow" in of_kind(default, "PersistentVolumeClaim")

    by_value = chart.render({"mlflow": {"backendStoreUri": "postgresql://u:p@db/mlflow"}})
    assert database(by_value)["valueFrom"]["secretKeyRef"] == {"name": "bloomery-mlflow-database", "key": "uri"}
    assert f"{NAMESPACE}/bloomery-mlflow" not in of_kind(by_value, "PersistentVolumeClaim")

    by_secret = chart.render({"mlflow": {"backendStoreSecret": {"name": "db", "key": "url"}}})
    assert database(by_secret)["valueFrom"]["secretKeyRef"] == {"name": "db", "key": "url"}


def test_mlflow_answers_to_its_own_names_only(chart: Chart) -> None:
    manifests = chart.render({"mlflow": {"publicURL": "https://mlflow.example.com/"}})
    args = only_container(manifests, "bloomery-mlflow")["args"]
    (hosts,) = [arg.partition("=")[2].split(",") for arg in args if arg.startswith("--allowed-hosts=")]
    assert {f"bloomery-mlflow.{NAMESPACE}.svc:5000", "localhost", "mlflow.example.com"} <= set(hosts)
    assert not [host for host in hosts if host.endswith("*") and not host.endswith(":*")]
    assert "--cors-allowed-origins=https://mlflow.example.com" in args


def test_uninstalling_keeps_the_data_and_the_kinds(chart: Chart) -> None:
    manifests = chart.render({})
    kept = of_kind(manifests, "PersistentVolumeClaim") | of_kind(manifests, "CustomResourceDefinition")
    assert len(kept) == 5
    for manifest in kept.values():
        assert manifest["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_an_upgrade_keeps_the_keys_that_the_installation_made(
    chart: Chart, apiserver: ApiServer, namespace: str
) -> None:
    here = ("bloomery", str(CHART), "--kubeconfig", str(apiserver.kubeconfig), "--namespace", namespace)
    values = {
        "crds": {"install": False},
        "namespaces": [namespace],
        "storage": {"secretNamespaces": [namespace]},
    }
    # No kubelet is here to run the Job that makes the bucket.
    installed = chart.run("install", *here, "--no-hooks", values=values)
    assert installed.returncode == 0, installed.stderr
    assert f"kubectl port-forward -n {namespace} service/bloomery-mlflow 5000" in installed.stdout
    read = ("get", "secret", "bloomery-storage", "-n", namespace, "-o", "jsonpath={.data.AWS_SECRET_ACCESS_KEY}")
    before = apiserver.kubectl(*read).stdout
    upgraded = chart.run("upgrade", *here, "--no-hooks", values=values)
    assert upgraded.returncode == 0, upgraded.stderr
    assert before and apiserver.kubectl(*read).stdout == before


REFUSED: dict[str, tuple[Values, str]] = {
    "a gateway without a class": ({"gateway": {"create": True}}, "gateway.className must name the GatewayClass"),
    "one's own MLflow without an address": (
        {"mlflow": {"bundled": False}},
        "mlflow.trackingUri must be set where mlflow.bundled is false",
    ),
    "one's own store without keys": (
        {"storage": {"bundled": False}},
        "storage.accessKey and storage.secretKey, or storage.existingSecret, must be set",
    ),
    "half a key": ({"storage": {"accessKey": "a"}}, "storage.accessKey and storage.secretKey belong together"),
    "keys of another store for the bundled one": (
        {"storage": {"existingSecret": "ours"}},
        "storage.existingSecret names keys of your own server",
    ),
    "a store that is no bucket": ({"storage": {"uri": "/data"}}, "storage.uri must begin with s3://"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_values_that_cannot_work_are_refused_in_words(chart: Chart, case: str) -> None:
    values, words = REFUSED[case]
    done = chart.try_to_render(values)
    assert done.returncode != 0
    assert words in done.stderr
