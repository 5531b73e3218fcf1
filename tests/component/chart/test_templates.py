"""The Helm chart: its objects, its checks of values, and the answer of a real API server."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from testing.kubernetes_api import PATHS
from tests.component.chart.rendering import (
    CHART,
    DEV_VALUES,
    NAMESPACE,
    NO_CLUSTER_RIGHTS,
    OWN_EVERYTHING,
    REPO,
    VARIANTS,
    Chart,
    Object,
    Values,
    environment,
    of_kind,
    only_container,
    pod_templates,
)
from tools.docs_blocks import blocks

if TYPE_CHECKING:
    from testing.api_server import ApiServer


@pytest.fixture(scope="session")
def chart(program: Callable[[str], Path]) -> Chart:
    return Chart(program("helm"))


@pytest.mark.feature("O4")
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_operator_uses_the_releases_lease(chart: Chart, variant: str) -> None:
    manifests = chart.render(VARIANTS[variant])
    settings = environment(manifests, "bloomery-operator")
    lease = (settings["BLOOMERY_LEASE_NAMESPACE"], settings["BLOOMERY_LEASE_NAME"])
    assert lease == (NAMESPACE, "bloomery-operator")
    (rule,) = of_kind(manifests, "Role")[f"{NAMESPACE}/bloomery-operator-lease"]["rules"]
    assert (rule["resources"], rule["verbs"]) == (["leases"], ["get", "create", "update"])


@pytest.mark.feature("O1")
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_bucket_is_made_in_the_image_that_has_boto3(chart: Chart, variant: str) -> None:
    manifests = chart.render(VARIANTS[variant])
    pods = [template["spec"] for name, template in pod_templates(manifests) if name == "bloomery-bucket"]
    assert len(pods) == bool(VARIANTS[variant].get("storage", {}).get("bundled", True))
    assert all("/mlflow:" in container["image"] for pod in pods for container in pod["containers"])


@pytest.mark.feature("O1")
@pytest.mark.parametrize("variant", VARIANTS)
def test_helm_lint_has_nothing_to_say(chart: Chart, variant: str) -> None:
    done = chart.run("lint", str(CHART), "--strict", values=VARIANTS[variant])
    assert done.returncode == 0, done.stdout


@pytest.mark.feature("O3")
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_pod_has_a_read_only_root(chart: Chart, variant: str) -> None:
    """Only the operator's pod has a token."""
    for name, template in pod_templates(chart.render(VARIANTS[variant])):
        pod = template["spec"]
        assert pod["automountServiceAccountToken"] is (name == "bloomery-operator")
        user = None if VARIANTS[variant].get("platformIds") else 10001
        assert pod["securityContext"].get("runAsUser") == user
        for container in pod["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["resources"]["requests"] and container["resources"]["limits"]["memory"]


@pytest.mark.feature("O3")
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_operator_may_do_nothing_by_wildcard_and_cannot_list_secrets(chart: Chart, variant: str) -> None:
    manifests = chart.render(VARIANTS[variant])
    roles = of_kind(manifests, "ClusterRole") | of_kind(manifests, "Role")
    rules = [rule for name, role in roles.items() if "/bloomery-operator" in name for rule in role["rules"]]
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
    "patch gateway.envoyproxy.io/backendtrafficpolicies",
    "get gateway.networking.k8s.io/gateways",
    "get /secrets",
    "get apps/replicasets",
}
DENIED = {
    "list /secrets",
    "list apps/replicasets",
    "delete /secrets",
    "create /pods",
    "patch bloomery.dev/datasets",
    "delete bloomery.dev/datasets",
    "get rbac.authorization.k8s.io/clusterroles",
    "delete /namespaces",
}


@pytest.mark.feature("O3")
def test_an_api_server_grants_only_what_the_operator_needs(chart: Chart, apiserver: ApiServer) -> None:
    manifests = chart.render({"gateway": {"name": "edge"}}, "--show-only", "templates/rbac.yaml")
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


def test_operator_gets_addresses_of_everything(chart: Chart) -> None:
    settings = environment(chart.render(DEV_VALUES), "bloomery-operator")
    assert {name: value for name, value in settings.items() if name.startswith("BLOOMERY_")} == {
        "BLOOMERY_TRAINER_IMAGE": "localhost/bloomery/trainer:dev",
        "BLOOMERY_SERVING_IMAGE": "localhost/bloomery/serving:dev",
        "BLOOMERY_SERVING_GPU_IMAGE": "localhost/bloomery/serving-gpu:dev",
        "BLOOMERY_KIT_IMAGE": "localhost/bloomery/kit:dev",
        "BLOOMERY_IMAGE_PULL_POLICY": "Never",
        "BLOOMERY_STORE_URI": "s3://bloomery",
        "BLOOMERY_STORAGE_SECRET": "bloomery-storage",
        "BLOOMERY_DOWNLOAD_WEIGHTS": "false",
        "BLOOMERY_SOURCE_NETWORKS": "",
        "BLOOMERY_NAMESPACES": "",
        "BLOOMERY_GATEWAY_NAME": "bloomery",
        "BLOOMERY_GATEWAY_NAMESPACE": NAMESPACE,
        "BLOOMERY_GATEWAY_PUBLIC_URL": "http://127.0.0.1:30080",
        "BLOOMERY_PATH_PREFIXES": "{}",
        "BLOOMERY_MLFLOW_ADDRESSES": f"http://bloomery-mlflow.{NAMESPACE}.svc:5000,"
        f"http://bloomery-mlflow.{NAMESPACE}.svc.cluster.local:5000,http://bloomery-mlflow.{NAMESPACE}:5000",
        "BLOOMERY_MODEL_NAMES": "Namespaced",
        "BLOOMERY_CLUSTER_NAME": "bloomery",
        "BLOOMERY_MLFLOW_PUBLIC_URL": "http://127.0.0.1:5000",
        "BLOOMERY_LOG_FORMAT": "text",
        "BLOOMERY_LEASE_NAMESPACE": NAMESPACE,
        "BLOOMERY_LEASE_NAME": "bloomery-operator",
    }


def test_namespace_gets_keys_of_bundled_store(chart: Chart) -> None:
    secrets = of_kind(chart.render({"storage": {"secretNamespaces": ["team-a"]}}), "Secret")
    keys = secrets[f"{NAMESPACE}/bloomery-storage-keys"]["stringData"]
    credentials = secrets["team-a/bloomery-storage"]["stringData"]
    assert len(keys["AWS_SECRET_ACCESS_KEY"]) == 40
    assert credentials == keys | {
        "AWS_ENDPOINT_URL": f"http://bloomery-storage.{NAMESPACE}.svc:7070",
        "AWS_REGION": "us-east-1",
        "MLFLOW_TRACKING_URI": f"http://bloomery-mlflow.{NAMESPACE}.svc:5000",
    }


@pytest.mark.feature("O1")
def test_own_store_mlflow_and_gateway_replace_bundled_ones(chart: Chart) -> None:
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
    settings = environment(manifests, "bloomery-operator")
    assert settings["BLOOMERY_STORE_URI"] == "s3://ours/bloomery"
    assert (settings["BLOOMERY_GATEWAY_NAME"], settings["BLOOMERY_GATEWAY_NAMESPACE"]) == ("edge", "infra")


@pytest.mark.feature("O7")
def test_operator_contacts_the_mlflows_that_the_values_list(chart: Chart) -> None:
    listed = {"allowedAddresses": ["https://mlflow.team-b.example.com/mlflow"]}
    own = OWN_EVERYTHING | {"mlflow": OWN_EVERYTHING["mlflow"] | listed, "clusterName": "berlin"}
    settings = environment(chart.render(own), "bloomery-operator")
    assert settings["BLOOMERY_MLFLOW_ADDRESSES"] == (
        "https://mlflow.example.com,https://mlflow.team-b.example.com/mlflow"
    )
    assert settings["BLOOMERY_CLUSTER_NAME"] == "berlin"
    container = only_container(chart.render({"storage": OWN_STORE}), "bloomery-operator")
    (entry,) = [entry for entry in container["env"] if entry["name"] == "BLOOMERY_OWN_MLFLOW_ADDRESS"]
    source = {"name": "ours", "key": "MLFLOW_TRACKING_URI", "optional": True}
    assert entry["valueFrom"] == {"secretKeyRef": source}


@pytest.mark.feature("O7")
def test_namespace_admins_may_write_routes_only_if_the_values_allow_it(chart: Chart) -> None:
    def rights(gateway: Values) -> set[str]:
        role = of_kind(chart.render({"gateway": {"name": "edge"} | gateway}), "ClusterRole")["/bloomery-admin"]
        return {resource for rule in role["rules"] for resource in rule["resources"]}

    routes = {"httproutes", "backendtrafficpolicies"}
    assert not routes & rights({})
    assert routes <= rights({"grantRoutesToAdmins": True})


@pytest.mark.feature("O7")
def test_operator_gets_the_granted_path_prefixes(chart: Chart) -> None:
    granted = {"team-a": ["/shop", "/login"], "team-b": ["/shopping"]}
    settings = environment(chart.render({"gateway": {"pathPrefixes": granted}}), "bloomery-operator")
    assert json.loads(settings["BLOOMERY_PATH_PREFIXES"]) == granted


@pytest.mark.feature("O1")
def test_named_namespaces_need_no_right_in_the_cluster(chart: Chart) -> None:
    manifests = chart.render(NO_CLUSTER_RIGHTS)
    assert all("namespace" in manifest["metadata"] for manifest in manifests)
    assert of_kind(manifests, "Role").keys() == {
        "team-a/bloomery-operator",
        "team-b/bloomery-operator",
        f"{NAMESPACE}/bloomery-operator-lease",
    }
    assert {name for name in of_kind(manifests, "Secret") if name.endswith("/bloomery-storage")} == {
        "team-a/bloomery-storage",
        "team-b/bloomery-storage",
    }
    assert environment(manifests, "bloomery-operator")["BLOOMERY_NAMESPACES"] == "team-a,team-b"


def test_a_gateway_without_a_public_url_is_read_where_it_is(chart: Chart) -> None:
    roles = of_kind(chart.render(OWN_EVERYTHING), "Role")
    assert roles["infra/bloomery-operator-gateway"]["rules"] == [
        {"apiGroups": ["gateway.networking.k8s.io"], "resources": ["gateways"], "verbs": ["get"]}
    ]


def test_without_a_gateway_the_operator_may_only_remove_routes(chart: Chart) -> None:
    """The routes are those of a former gateway."""
    (role,) = [r for name, r in of_kind(chart.render({}), "ClusterRole").items() if "operator" in name]
    on_routes = [rule for rule in role["rules"] if any("gateway" in group for group in rule["apiGroups"])]
    assert [rule["resources"] for rule in on_routes] == [["httproutes"], ["backendtrafficpolicies"]]
    assert [rule["verbs"] for rule in on_routes] == [["get", "delete"]] * 2
    # An admin of a namespace may not have these rights, and then cannot grant them.
    for name, role in of_kind(chart.render({"namespaces": ["team-a"]}), "Role").items():
        assert not any("gateway" in group for rule in role["rules"] for group in rule["apiGroups"]), name


def test_people_with_the_clusters_usual_roles_may_use_the_kinds(chart: Chart) -> None:
    roles = {
        label.rpartition("-")[2]: {verb for rule in role["rules"] for verb in rule["verbs"]}
        for role in of_kind(chart.render({}), "ClusterRole").values()
        for label in role["metadata"]["labels"]
        if label.startswith("rbac.authorization.k8s.io/aggregate-to-")
    }
    assert roles["view"] == {"get", "list", "watch"}
    assert {"create", "delete"} <= roles["edit"]
    assert not {"create", "delete"} & roles["admin"]  # who has admin has edit, too


def test_keys_that_exist_already_are_only_referred_to(chart: Chart) -> None:
    manifests = chart.render(VARIANTS["with one's own Secret"])
    assert not of_kind(manifests, "Secret")
    assert environment(manifests, "bloomery-operator")["BLOOMERY_STORAGE_SECRET"] == "ours"
    mlflow = only_container(manifests, "bloomery-mlflow")
    assert mlflow["envFrom"] == [{"secretRef": {"name": "ours"}}]
    # An entry of its own would win over the Secret's.
    values = {entry["name"]: entry for entry in mlflow["env"]}
    assert "AWS_REGION" not in values
    assert values["AWS_DEFAULT_REGION"]["valueFrom"]["secretKeyRef"]["key"] == "AWS_REGION"


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


def test_uninstalling_keeps_data_and_kinds(chart: Chart) -> None:
    manifests = chart.render({})
    resources = {
        f"{manifest['kind']} {manifest['metadata']['name']}"
        for manifest in manifests
        if manifest["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == "keep"
    }
    assert resources == {
        *(f"CustomResourceDefinition {kind}.bloomery.dev" for kind in PATHS if PATHS[kind].startswith("apis/bloomery")),
        *(f"ClusterRole bloomery-{role}" for role in ("admin", "edit", "view")),
        *(f"PersistentVolumeClaim bloomery-{what}" for what in ("mlflow", "storage")),
        "Secret bloomery-storage-keys",
    }


def test_a_new_version_alone_restarts_neither_store_nor_mlflow(chart: Chart) -> None:
    for name, template in pod_templates(chart.render({})):
        if name != "bloomery-bucket":
            assert set(template["metadata"]["labels"]) == {
                "app.kubernetes.io/name",
                "app.kubernetes.io/instance",
                "app.kubernetes.io/component",
            }


@pytest.mark.feature("O1")
def test_a_gateway_speaks_https_beside_http_or_alone(chart: Chart) -> None:
    tls: Values = {"create": True, "className": "envoy", "tls": {"secretName": "models-tls"}}
    (gateway,) = of_kind(chart.render({"gateway": tls}), "Gateway").values()
    http, https = gateway["spec"]["listeners"]
    assert (http["protocol"], http["port"]) == ("HTTP", 80)
    assert (https["protocol"], https["port"]) == ("HTTPS", 443)
    assert https["tls"] == {"mode": "Terminate", "certificateRefs": [{"name": "models-tls"}]}

    (gateway,) = of_kind(chart.render(VARIANTS["with a gateway for https"]), "Gateway").values()
    (https,) = gateway["spec"]["listeners"]
    assert https["protocol"] == "HTTPS"
    assert https["allowedRoutes"]["namespaces"]["selector"] == {"matchLabels": {"models": "public"}}
    assert gateway["spec"]["infrastructure"]["parametersRef"]["kind"] == "EnvoyProxy"


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


COPY = next(block.text for block in blocks(REPO / "docs" / "install.md") if "--from-env-file" in block.text)
NOTED: dict[str, tuple[Values, tuple[str, ...]]] = {
    "some namespaces": (
        {"namespaces": ["team-a", "team-b"]},
        ("works in the namespaces team-a, team-b.", "kubectl apply -n team-a -f -", "crds.install is false"),
    ),
    "a Secret to copy as the page says": ({}, tuple(COPY.replace("team-a", "NAMESPACE").split("\n  "))),
    "one's own Secret": (VARIANTS["with one's own Secret"], ("your Secret ours, in", "the bucket must be there")),
    "one's own store and MLflow": (
        OWN_EVERYTHING | {"namespaces": []},
        ("s3://ours/bloomery/ at https://s3.example.com", "MLflow: https://mlflow.example.com"),
    ),
    "a public gateway": (
        {"gateway": {"name": "edge", "publicURL": "https://models.example.com"}},
        ("Gateway: https://models.example.com",),
    ),
    "a gateway without a public address": (
        {"gateway": {"name": "edge", "namespace": "infra"}},
        ("kubectl get gateway -n infra edge", "set gateway.publicURL"),
    ),
    "no gateway": ({}, ("Gateway: none.", "set gateway.create or gateway.name for more")),
    "network policies": ({"networkPolicy": {"enabled": True}}, ("for training and serving pods, in default",)),
}


@pytest.mark.feature("O1")
@pytest.mark.parametrize("case", NOTED)
def test_notes_show_next_steps_for_the_values(chart: Chart, apiserver: ApiServer, namespace: str, case: str) -> None:
    values, words = NOTED[case]
    where = ("--namespace", namespace, "--kubeconfig", str(apiserver.kubeconfig), "--dry-run=client")
    done = chart.run("install", "noted", str(CHART), *where, values=values | {"crds": {"install": False}})
    assert done.returncode == 0, done.stderr
    notes = done.stdout.partition("NOTES:")[2]
    for sentence in words:
        assert sentence in notes


OWN_STORE: Values = {"bundled": False, "existingSecret": "ours"}
OWN_MLFLOW: Values = {"bundled": False, "trackingUri": "https://mlflow.example.com"}
CREATED: Values = {"create": True, "className": "envoy"}
REFUSED: dict[str, tuple[Values, str]] = {
    "a gateway without a class": ({"gateway": {"create": True}}, "gateway.className must name the GatewayClass"),
    "a class for a gateway that is not made": (
        {"gateway": {"className": "envoy", "name": "edge"}},
        "gateway.infrastructure are of a Gateway that the chart makes: set gateway.create to true",
    ),
    "a public address without a gateway": (
        {"gateway": {"publicURL": "https://models.example.com"}},
        "gateway.publicURL is the address of a Gateway: set gateway.create to true or gateway.name to your own",
    ),
    "https without a certificate": (
        {"gateway": CREATED | {"tls": {"only": True}}},
        "gateway.tls.secretName must name a TLS Secret",
    ),
    "http and https on one port": (
        {"gateway": CREATED | {"tls": {"secretName": "t", "port": 80}}},
        "gateway.port and gateway.tls.port must be two ports",
    ),
    "https alone under an address by http": (
        {"gateway": CREATED | {"publicURL": "http://m.example", "tls": {"only": True, "secretName": "t"}}},
        "gateway.publicURL must be set where gateway.tls.only is true, as https://",
    ),
    "an address without a scheme": (
        {"mlflow": {"publicURL": "mlflow.example.com"}},
        'mlflow.publicURL must begin with http:// or https://, not "mlflow.example.com"',
    ),
    "one's own MLflow without an address": (
        {"mlflow": {"bundled": False}},
        "mlflow.trackingUri must be set where mlflow.bundled is false",
    ),
    "one's own MLflow beside the bundled one": (
        {"mlflow": {"trackingUri": "https://mlflow.example.com"}},
        "are of your own MLflow: set mlflow.bundled to false",
    ),
    "a database for one's own MLflow": (
        {"mlflow": OWN_MLFLOW | {"backendStoreUri": "postgresql://db/mlflow"}},
        "are of the bundled MLflow: set mlflow.bundled to true",
    ),
    "two databases": (
        {"mlflow": {"backendStoreUri": "postgresql://db/mlflow", "backendStoreSecret": {"name": "db"}}},
        "both name MLflow's database: set one of them",
    ),
    "a user without a password": (
        {"mlflow": OWN_MLFLOW | {"username": "us"}},
        "mlflow.username and mlflow.password belong together",
    ),
    "MLflow's password beside a Secret of one's own": (
        {"storage": OWN_STORE, "mlflow": OWN_MLFLOW | {"username": "us", "password": "pass"}},
        "go into the Secret that storage.existingSecret names",
    ),
    "one's own store without keys": (
        {"storage": {"bundled": False}},
        "storage.accessKey and storage.secretKey, or storage.existingSecret, must be set",
    ),
    "one's own store beside the bundled one": (
        {"storage": {"endpoint": "https://s3.example.com"}},
        "storage.endpoint is the address of your own server: set storage.bundled to false",
    ),
    "a style of addressing for the bundled store": (
        {"storage": {"addressingStyle": "virtual"}},
        "storage.addressingStyle is of your own server",
    ),
    "a style of addressing beside a Secret of one's own": (
        {"storage": OWN_STORE | {"addressingStyle": "virtual"}},
        "as AWS_S3_ADDRESSING_STYLE",
    ),
    "a style of addressing that is none": (
        {"storage": {"addressingStyle": "host"}},
        "value must be one of '', 'path', 'virtual'",
    ),
    "a proxy without a scheme": (
        {"proxy": {"httpsProxy": "proxy:3128"}},
        "at '/proxy/httpsProxy': 'proxy:3128' does not",
    ),
    "half a key": ({"storage": {"accessKey": "a"}}, "storage.accessKey and storage.secretKey belong together"),
    "keys of another store for the bundled one": (
        {"storage": {"existingSecret": "ours"}},
        "storage.existingSecret names keys of your own server",
    ),
    "namespaces for a Secret that is not made": (
        {"storage": OWN_STORE | {"secretNamespaces": ["team-a"]}},
        "storage.existingSecret is a Secret that you make yourself",
    ),
    "a store that is no bucket": ({"storage": {"uri": "/data"}}, "storage.uri must begin with s3://"),
    "a mistyped switch": (
        {"storage": {"bundeld": False}},
        "at '/storage': additional properties 'bundeld' not allowed",
    ),
    "a text for a switch": ({"gateway": {"create": "no"}}, "at '/gateway/create': got string, want boolean"),
    "an unknown log format": ({"operator": {"logFormat": "xml"}}, "value must be one of 'json', 'text'"),
    "a namespace that is no name": ({"namespaces": ["Team A"]}, "at '/namespaces/0': 'Team A' does not match pattern"),
    "a path prefix of two namespaces": (
        {"gateway": {"pathPrefixes": {"team-a": ["/shop"], "team-b": ["/shop/all"]}}},
        "but a prefix belongs to one namespace",
    ),
    "a path prefix that is another namespace": (
        {"namespaces": ["team-a", "team-b"], "gateway": {"pathPrefixes": {"team-a": ["/team-b/x"]}}},
        "gives /team-b/x to team-a, but team-b is a namespace",
    ),
    "the root as a path prefix": (
        {"gateway": {"pathPrefixes": {"team-a": ["/"]}}},
        "at '/gateway/pathPrefixes/team-a/0': '/' does not match pattern",
    ),
    "an MLflow with a user in its address": (
        {"mlflow": {"allowedAddresses": ["https://us:pass@mlflow.example.com"]}},
        "at '/mlflow/allowedAddresses/0': 'https://us:pass@mlflow.example.com' does not match pattern",
    ),
    "one's own MLflow with a user in its address": (
        {"mlflow": OWN_MLFLOW | {"trackingUri": "https://us:pass@mlflow.example.com"}},
        "mlflow.trackingUri must be an address without user, query and fragment",
    ),
    "routes by a selector that is not there": (
        {"gateway": CREATED | {"allowedRoutes": {"from": "Selector"}}},
        "at '/gateway/allowedRoutes': missing property 'selector'",
    ),
}


@pytest.mark.feature("O1")
@pytest.mark.parametrize("case", REFUSED)
def test_values_that_cannot_work_are_refused_in_words(chart: Chart, case: str) -> None:
    values, words = REFUSED[case]
    done = chart.try_to_render(values)
    assert done.returncode != 0
    assert words in done.stderr
