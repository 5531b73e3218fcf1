"""The whole path in clusters as users have them: quotas, sidecars, taints, user id ranges, private CAs, other stores.

Each environment is a namespace with an installation of its own, without rights in the cluster; the installation for the
whole cluster rests meanwhile. In each, a Dataset is prepared, a TrainingJob trains and registers a model, and a service
answers a request.
"""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from testing.authorities import make_authority
from testing.cluster_store import class_folders, digit_images, put_files
from testing.dev_cluster import Kubectl, eventually
from tests.e2e.chart import CHART, helm, namespaced_values, scaled_to_zero
from tests.e2e.servers import CONFINED, IMAGES, create, put_secret, run_mlflow, run_store, upload
from tests.e2e.test_training import NAMES, RECIPE

pytestmark = [pytest.mark.extended, pytest.mark.feature("O6")]

RAW = "raw/e2e-clusters"
RESOURCES = {"requests": {"cpu": "100m", "memory": "600Mi"}, "limits": {"memory": "2Gi"}}
FIRST_USER_ID = 1_000_650_000
"""The first id of a range as OpenShift gives one to each namespace."""


@dataclass(frozen=True)
class Environment:
    """A namespace to install, train and serve in, and the fields that its users set."""

    kubectl: Kubectl
    values: Mapping[str, Any] = field(default_factory=dict)
    pod_template: Mapping[str, Any] | None = None
    resources: Mapping[str, Any] = field(default_factory=lambda: RESOURCES)


@pytest.fixture(scope="module")
def images() -> dict[str, list[bytes]]:
    return digit_images(NAMES, each=60)


@pytest.fixture(scope="module", autouse=True)
def resting_operator(system: Kubectl, images: Mapping[str, list[bytes]]) -> Iterator[None]:
    """Stop the operator for the whole cluster: two would work on the same objects."""
    put_files(f"s3://bloomery/{RAW}", class_folders(images))
    with scaled_to_zero(system):
        yield


def files(images: Mapping[str, list[bytes]]) -> dict[str, bytes]:
    """Return the images by their paths in the bucket."""
    return class_folders(images, below=RAW)


@contextmanager
def installed(environment: Environment, folder: Path) -> Iterator[None]:
    """Install an operator for the environment's namespace alone."""
    namespace = environment.kubectl.namespace
    path = namespaced_values(namespace, folder, {"training": {"downloadWeights": False}, **environment.values})
    helm("install", "bloomery", CHART, f"--namespace={namespace}", "--wait", "--timeout=3m", f"--values={path}")
    try:
        yield
    finally:
        helm("uninstall", "bloomery", f"--namespace={namespace}")


def apply(kubectl: Kubectl, kind: str, name: str, spec: Mapping[str, Any]) -> None:
    manifest = {"apiVersion": "bloomery.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
    done = kubectl.apply(manifest)
    assert done.returncode == 0, done.stderr


def train_and_serve(environment: Environment, image: bytes) -> None:
    """Go the whole path, which ends with an answer through the gateway."""
    kubectl = environment.kubectl
    template = {"podTemplate": environment.pod_template} if environment.pod_template else {}
    training = {"resources": environment.resources, **template}
    apply(kubectl, "Dataset", "digits", {"source": {"uri": f"s3://bloomery/{RAW}"}, **template})
    kubectl.wait("dataset/digits", "Ready", seconds=240)
    job = {
        "datasets": [{"name": "digits"}],
        "preset": "resnet18",
        "initialModel": {"weights": "None"},
        "hyperparameters": RECIPE,
        "output": {"registeredModel": "e2e-clusters"},
        **training,
    }
    apply(kubectl, "TrainingJob", "digits", job)
    kubectl.wait("trainingjobs.bloomery.dev/digits", "Complete", seconds=300)
    status = kubectl.get("trainingjobs.bloomery.dev", "digits")["status"]
    assert status["model"]["version"], status
    variant = {"name": "v1", "model": {"trainingJob": "digits"}, "weight": 100, **training}
    apply(kubectl, "InferenceService", "digits", {"variants": [variant]})
    kubectl.wait("inferenceservices.bloomery.dev/digits", "Ready", seconds=240)
    url = kubectl.get("inferenceservices.bloomery.dev", "digits")["status"]["url"]
    key = kubectl.secret("digits-api-key")["default"]
    headers = {"authorization": key, "content-type": "image/png"}
    answer = httpx.post(f"{url}/predict", content=image, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.json()["label"] in NAMES


def test_the_whole_path_works_with_quota_and_limit_range(
    make_namespace: Callable[[str], Kubectl], images: Mapping[str, list[bytes]], tmp_path: Path
) -> None:
    kubectl = make_namespace("e2e-quota")
    hard = {"requests.cpu": "4", "requests.memory": "12Gi", "limits.cpu": "16", "limits.memory": "24Gi", "pods": "20"}
    create(kubectl, {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "all"}, "spec": {"hard": hard}})
    defaults = {"type": "Container", "default": {"cpu": "1", "memory": "1Gi"}, "defaultRequest": {"cpu": "50m"}}
    create(
        kubectl,
        {"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "all"}, "spec": {"limits": [defaults]}},
    )
    environment = Environment(kubectl)
    with installed(environment, tmp_path):
        train_and_serve(environment, images["null"][0])


def test_the_whole_path_works_where_a_sidecar_is_injected(
    make_namespace: Callable[[str], Kubectl], images: Mapping[str, list[bytes]], tmp_path: Path
) -> None:
    kubectl = make_namespace("e2e-sidecar")
    # Such namespaces are not restricted: the policy cannot set the list of capabilities that the sidecar drops.
    kubectl("label", "--overwrite", "namespace", "e2e-sidecar", "pod-security.kubernetes.io/enforce=baseline")
    sidecar = (
        f"Object.spec.initContainers{{name: 'istio-proxy', image: '{IMAGES}/pause:dev', restartPolicy: 'Always', "
        "securityContext: Object.spec.initContainers.securityContext{allowPrivilegeEscalation: false}}"
    )
    with mutation(kubectl, "e2e-sidecar", f"Object{{spec: Object.spec{{initContainers: [{sidecar}]}}}}"):
        environment = Environment(kubectl)
        with installed(environment, tmp_path):
            train_and_serve(environment, images["null"][0])
        names = {
            status["name"] for pod in kubectl.get("pods") for status in pod["status"].get("initContainerStatuses", [])
        }
        assert "istio-proxy" in names


def test_the_whole_path_works_on_tainted_nodes(
    make_namespace: Callable[[str], Kubectl], images: Mapping[str, list[bytes]], tmp_path: Path
) -> None:
    kubectl = make_namespace("e2e-tainted")
    tolerations = [{"key": "dedicated", "operator": "Equal", "value": "vision", "effect": "NoSchedule"}]
    environment = Environment(
        kubectl,
        values={"podTemplate": {"tolerations": tolerations}},
        pod_template={"tolerations": tolerations},
    )
    kubectl("taint", "nodes", "--all", "dedicated=vision:NoSchedule", "--overwrite")
    try:
        with installed(environment, tmp_path):
            train_and_serve(environment, images["null"][0])
    finally:
        kubectl("taint", "nodes", "--all", "dedicated=vision:NoSchedule-")


def test_the_whole_path_works_where_the_platform_gives_user_ids(
    make_namespace: Callable[[str], Kubectl], images: Mapping[str, list[bytes]], tmp_path: Path
) -> None:
    """OpenShift's restricted-v2: ids outside of the namespace's range are refused, missing ones are filled in."""
    kubectl = make_namespace("e2e-user-ids")
    filled = (
        "Object{spec: Object.spec{securityContext: Object.spec.securityContext{"
        f"runAsUser: {FIRST_USER_ID}, fsGroup: {FIRST_USER_ID}"
        "}}}"
    )
    missing = "!has(object.spec.securityContext) || !has(object.spec.securityContext.runAsUser)"
    with (
        refusal(
            kubectl,
            "e2e-user-ids",
            f"object.spec.?securityContext.?runAsUser.orValue(0) >= {FIRST_USER_ID} && "
            f"object.spec.?securityContext.?fsGroup.orValue(0) >= {FIRST_USER_ID} && "
            f"object.spec.containers.all(c, c.?securityContext.?runAsUser.orValue({FIRST_USER_ID}) >= {FIRST_USER_ID})",
        ),
        mutation(kubectl, "e2e-user-ids", filled, condition=missing),
    ):
        environment = Environment(kubectl, values={"platformIds": True})
        with installed(environment, tmp_path):
            train_and_serve(environment, images["null"][0])
        assert {pod["spec"]["securityContext"]["runAsUser"] for pod in kubectl.get("pods")} == {FIRST_USER_ID}


@pytest.fixture
def private_services(make_namespace: Callable[[str], Kubectl]) -> Iterator[tuple[Kubectl, bytes]]:
    """Run a store and an MLflow behind certificates of a CA of their own; yield their namespace and the CA."""
    kubectl = make_namespace("e2e-tls")
    hosts = [f"{name}.e2e-tls.svc" for name in ("store", "mlflow")]
    authority = make_authority(hosts)
    create(
        kubectl,
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "tls"},
            "data": {
                "tls.crt": base64.b64encode(authority.certificate).decode(),
                "tls.key": base64.b64encode(authority.key).decode(),
            },
        },
    )
    run_store(kubectl, "store", ["--cert", "/tls/tls.crt", "--key", "/tls/tls.key"])
    run_mlflow(kubectl, "--uvicorn-opts=--ssl-certfile /tls/tls.crt --ssl-keyfile /tls/tls.key")
    for name in ("store", "mlflow"):
        kubectl("rollout", "status", f"deployment/{name}", "--timeout=180s")
    yield kubectl, authority.root


def test_the_whole_path_works_behind_a_private_ca(
    make_namespace: Callable[[str], Kubectl],
    private_services: tuple[Kubectl, bytes],
    images: Mapping[str, list[bytes]],
    tmp_path: Path,
) -> None:
    services, root = private_services
    kubectl = make_namespace("e2e-private-ca")
    upload(services, "store", files(images), scheme="https")
    put_secret(kubectl, "https://store.e2e-tls.svc:7070", mlflow="https://mlflow.e2e-tls.svc:5000")
    create(
        kubectl,
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "company-ca"},
            "data": {"ca.crt": root.decode()},
        },
    )
    environment = Environment(kubectl, values={"trustedCAs": {"configMap": "company-ca"}})
    with installed(environment, tmp_path):
        train_and_serve(environment, images["null"][0])


def test_the_whole_path_works_with_a_store_of_virtual_hosts_only(
    make_namespace: Callable[[str], Kubectl], images: Mapping[str, list[bytes]], tmp_path: Path
) -> None:
    """The bucket is a name before the store's; the store's own name is in no DNS, so that paths cannot work."""
    store = make_namespace("e2e-virtual")
    run_store(store, "bloomery", ["--virtual-domain", "e2e-virtual.svc:7070"])
    store("rollout", "status", "deployment/bloomery", "--timeout=120s")
    upload(store, "bloomery", files(images), scheme="http")
    kubectl = make_namespace("e2e-virtual-user")
    put_secret(kubectl, "http://e2e-virtual.svc:7070", AWS_S3_ADDRESSING_STYLE="virtual")
    environment = Environment(kubectl)
    with installed(environment, tmp_path):
        train_and_serve(environment, images["null"][0])


@contextmanager
def mutation(kubectl: Kubectl, name: str, expression: str, *, condition: str = "true") -> Iterator[None]:
    """Change each new pod of a namespace by a MutatingAdmissionPolicy."""
    spec = {
        "matchConditions": [{"name": "condition", "expression": condition}],
        "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}],
        "reinvocationPolicy": "Never",
        "failurePolicy": "Fail",
    }
    with policy(kubectl, name, "MutatingAdmissionPolicy", "admissionregistration.k8s.io/v1beta1", spec):
        plain = probe(kubectl, dry_run="client").stdout
        eventually("pods are changed", lambda: is_changed(plain, probe(kubectl, dry_run="server").stdout), seconds=30)
        yield


@contextmanager
def refusal(kubectl: Kubectl, name: str, expression: str) -> Iterator[None]:
    """Refuse the pods of a namespace for which an expression does not hold."""
    spec = {"validations": [{"expression": expression, "message": "ids must be in the namespace's range"}]}
    with policy(kubectl, name, "ValidatingAdmissionPolicy", "admissionregistration.k8s.io/v1", spec):
        refused = "ids must be in the namespace's range"
        eventually("pods are refused", lambda: refused in probe(kubectl, dry_run="server").stderr, seconds=30)
        yield


def probe(kubectl: Kubectl, *, dry_run: str) -> subprocess.CompletedProcess[str]:
    """Create a pod without creating it."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "probe"},
        "spec": {
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "probe", "image": "probe", "securityContext": CONFINED}],
        },
    }
    words = ("create", f"--dry-run={dry_run}", "--filename=-", "--output=json")
    return kubectl.run(*words, stdin=json.dumps(pod), check=False)


def is_changed(before: str, after: str) -> bool:
    """Return whether a policy has changed a pod: its ids or its initial containers."""
    if not after:
        return False
    old, new = json.loads(before)["spec"], json.loads(after)["spec"]
    return any(old[field] != new[field] for field in ("securityContext",)) or "initContainers" in new


@contextmanager
def policy(kubectl: Kubectl, name: str, kind: str, version: str, spec: Mapping[str, Any]) -> Iterator[None]:
    """Bind an admission policy to the pods of a namespace for the length of the block."""
    rules = [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]
    namespace = {"matchLabels": {"kubernetes.io/metadata.name": kubectl.namespace}}
    matches = {"resourceRules": rules, "namespaceSelector": namespace}
    metadata = {"name": name}
    definition = {
        "apiVersion": version,
        "kind": kind,
        "metadata": metadata,
        "spec": {"matchConstraints": matches, **spec},
    }
    binding: dict[str, Any] = {"policyName": name}
    if kind == "ValidatingAdmissionPolicy":
        binding["validationActions"] = ["Deny"]
    bound = {"apiVersion": version, "kind": f"{kind}Binding", "metadata": metadata, "spec": binding}
    create(kubectl, definition)
    create(kubectl, bound)
    try:
        yield
    finally:
        kubectl("delete", kind.lower(), name)
        kubectl("delete", f"{kind.lower()}binding", name)
