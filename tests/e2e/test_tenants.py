"""Two tenants of one installation, one of them hostile with every right of the role ``edit`` in its namespace.

Each has a store and an MLflow of its own, both listed in the chart. The good tenant's service answers a steady load
from the first attack to the last, and its changes are reconciled as fast as before.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from dev import demo
from dev.paths import target
from testing.cluster_store import class_folders, digit_images
from testing.dev_cluster import SYSTEM, Kubectl, eventually, gateway_address
from testing.load import Load
from tests.e2e.chart import CHART, VALUES, helm, install, service_account_config
from tests.e2e.servers import CONFINED, IMAGES, RESTRICTED, put_secret, run_mlflow, run_store, upload
from tests.e2e.test_serving import assert_nothing_lost, key_of, make_model, serve, variant

pytestmark = [pytest.mark.extended, pytest.mark.feature("O7")]

GOOD = "e2e-good"
HOSTILE = "e2e-hostile"
MOST_DELAY_SECONDS = 1.0
"""The most by which an attack may delay a reconcile of the other tenant."""

QUADRATIC_METRICS = """
import http.server

BODY = b'a{b="' + b'\\\\"' * 400_000 + b'"} 1\\n'


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        print("asked for", self.path, flush=True)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(BODY)


print("listening", flush=True)
http.server.ThreadingHTTPServer(("", 9090), Handler).serve_forever()
"""

IDLE_CONNECTIONS = """
import os, socket, time

HOST = os.environ["HOST"]
heads = [
    b"",
    b"POST /predict HTTP/1.1\\r\\nHost: x\\r\\nX-Long: ",
    b"POST /predict HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 140000000\\r\\n\\r\\nx",
]
opened = []
for number in range(300):
    try:
        connection = socket.create_connection((HOST, 8080), timeout=5)
        connection.sendall(heads[number % len(heads)])
        opened.append(connection)
    except OSError:
        pass
print(len(opened), "connections are open", flush=True)
end = time.monotonic() + 60
while time.monotonic() < end:
    for connection in opened[1::3]:
        try:
            connection.sendall(b"a" * 65536)
        except OSError:
            pass
    time.sleep(0.1)
print("done", flush=True)
"""


@dataclass(frozen=True)
class User:
    """kubectl with the credentials of one person."""

    kubeconfig: Path

    def run(self, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command, which may be refused."""
        environment = target().environment | {"KUBECONFIG": str(self.kubeconfig)}
        command = [demo.tool("kubectl"), *words]
        return subprocess.run(command, input=stdin, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def image() -> bytes:
    return digit_images({"null": 0}, each=1)["null"][0]


@pytest.fixture(scope="module")
def good(make_namespace: Callable[[str], Kubectl]) -> Kubectl:
    return with_servers(make_namespace(GOOD))


@pytest.fixture(scope="module")
def hostile(make_namespace: Callable[[str], Kubectl]) -> Kubectl:
    kubectl = with_servers(make_namespace(HOSTILE))
    kubectl("create", "serviceaccount", "eve")
    kubectl("create", "rolebinding", "eve", "--clusterrole=edit", f"--serviceaccount={HOSTILE}:eve")
    return kubectl


def with_servers(kubectl: Kubectl) -> Kubectl:
    """Give a namespace a store and an MLflow of its own, and a Secret that names them."""
    namespace = kubectl.namespace
    run_store(kubectl, "store", [])
    run_mlflow(kubectl)
    for name in ("store", "mlflow"):
        kubectl("rollout", "status", f"deployment/{name}", "--timeout=180s")
    put_secret(kubectl, f"http://store.{namespace}.svc:7070", mlflow=f"http://mlflow.{namespace}.svc:5000")
    return kubectl


@pytest.fixture(scope="module")
def eve(hostile: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> User:
    """Give the hostile tenant's credentials."""
    return User(service_account_config(hostile, "eve", tmp_path_factory.mktemp("eve")))


@pytest.fixture(scope="module", autouse=True)
def listed_servers(good: Kubectl, hostile: Kubectl, system: Kubectl) -> Iterator[None]:
    """List both tenants' MLflow servers in the chart."""
    addresses = ",".join(f"http://mlflow.{kubectl.namespace}.svc:5000" for kubectl in (good, hostile))
    where = (f"--namespace={SYSTEM}", "--wait", "--timeout=3m")
    helm("upgrade", "bloomery", CHART, f"--values={VALUES}", f"--set=mlflow.allowedAddresses={{{addresses}}}", *where)
    yield
    install()


@pytest.fixture(scope="module", autouse=True)
def load(
    good: Kubectl,
    system: Kubectl,
    listed_servers: None,
    image: bytes,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Load]:
    """Run the good tenant's service under a steady load; no request may be lost over all attacks."""
    model = make_model(tmp_path_factory.mktemp("model") / "good")
    upload(good, "store", {f"models/good/{name}": data for name, data in model.items()}, scheme="http")
    serve(good, "shop", [variant("v1", 100, "s3://bloomery/models/good")])
    good.wait("inferenceservices.bloomery.dev/shop", "Ready", seconds=180)
    url = f"{gateway_address(system)}/{GOOD}/shop/predict"
    load = Load(good, "load-shop").start(url, key=key_of(good, "shop"), image=image, rate=20, count=1_000_000)
    yield load
    outcome = load.stop()
    assert outcome.requests > 300
    assert_nothing_lost(outcome)


@pytest.fixture(scope="module")
def quiet_seconds(good: Kubectl, load: Load) -> float:
    """Measure how long a reconcile of the good tenant takes without an attack: the longest of five."""
    return max(reconcile_seconds(good) for _ in range(5))


def reconcile_seconds(good: Kubectl) -> float:
    """Return the time from a change of the good tenant's spec until the operator has taken it up."""
    began = time.monotonic()
    patch = json.dumps({"spec": {"description": f"changed at {began}"}})
    good("patch", "inferenceservices.bloomery.dev/shop", "--type=merge", f"--patch={patch}")

    def is_observed() -> bool:
        manifest = good.get("inferenceservices.bloomery.dev", "shop")
        return bool(manifest["status"]["observedGeneration"] == manifest["metadata"]["generation"])

    eventually("the operator has seen the change", is_observed, seconds=60, interval=0.1)
    return time.monotonic() - began


def refused(kubectl: Kubectl, kind: str, name: str, reason: str) -> dict[str, Any]:
    """Wait until an object has a condition with a reason; return the condition."""

    def rejection() -> dict[str, Any]:
        conditions = kubectl.get(f"{kind}.bloomery.dev", name).get("status", {}).get("conditions", [])
        return next((each for each in conditions if each["reason"] == reason), {})

    result: dict[str, Any] = eventually(f"{kind}/{name} is {reason}", rejection, seconds=60)
    return result


def test_edit_in_one_namespace_reads_nothing_of_another(eve: User) -> None:
    for what in ("secrets", "pods", "inferenceservices.bloomery.dev", "configmaps", "datasets.bloomery.dev"):
        done = eve.run("get", what, f"--namespace={GOOD}")
        assert "forbidden" in done.stderr, done
    done = eve.run("get", "secret", "shop-api-key", f"--namespace={GOOD}")
    assert "forbidden" in done.stderr, done


def test_a_path_of_another_namespace_is_refused_and_its_route_stays(
    good: Kubectl, hostile: Kubectl, eve: User, load: Load, image: bytes
) -> None:
    before = {route["metadata"]["name"]: route["metadata"]["uid"] for route in good.get("httproutes")}
    for name, path in (("dummy", f"/{GOOD}"), ("deeper", f"/{GOOD}/shop/predict"), ("login", "/login")):
        manifest = {
            "apiVersion": "bloomery.dev/v1alpha1",
            "kind": "InferenceService",
            "metadata": {"name": name, "namespace": HOSTILE},
            "spec": {"path": path, "variants": [variant("v1", 100, "s3://bloomery/models/evil")]},
        }
        done = eve.run("apply", "--filename=-", stdin=yaml.safe_dump(manifest))
        assert done.returncode == 0, done.stderr
        refused(hostile, "inferenceservices", name, "PathNotAllowed")
    assert {route["metadata"]["name"]: route["metadata"]["uid"] for route in good.get("httproutes")} == before
    assert hostile.get("httproutes") == []
    url = good.get("inferenceservices.bloomery.dev", "shop")["status"]["url"]
    headers = {"authorization": key_of(good, "shop"), "content-type": "image/png"}
    assert httpx.post(f"{url}/predict", content=image, headers=headers, timeout=60).status_code == 200


def test_another_mlflow_is_never_contacted(good: Kubectl, hostile: Kubectl, eve: User, quiet_seconds: float) -> None:
    """An address of the tenant's choice gets no request, whatever its query; the other tenant notices nothing."""
    run_script(eve, "listener", QUADRATIC_METRICS, {})
    address = hostile.get("pod", "listener")["status"]["podIP"]
    for uri in (f"http://{address}:9090", f"http://{address}:9090/admin?id=1#", "http://127.0.0.1:8080"):
        patch = yaml.safe_dump({"stringData": {"MLFLOW_TRACKING_URI": uri}})
        done = eve.run("patch", "secret", "bloomery-storage", f"--namespace={HOSTILE}", f"--patch={patch}")
        assert done.returncode == 0, done.stderr
        apply_followed(eve, "follower")
        message = refused(hostile, "inferenceservices", "follower", "MLflowNotAllowed")["message"]
        assert address not in message
        assert "/admin" not in message
        assert reconcile_seconds(good) < quiet_seconds + MOST_DELAY_SECONDS
    assert "asked for" not in hostile("logs", "listener")
    own = yaml.safe_dump({"stringData": {"MLFLOW_TRACKING_URI": f"http://mlflow.{HOSTILE}.svc:5000"}})
    eve.run("patch", "secret", "bloomery-storage", f"--namespace={HOSTILE}", f"--patch={own}")


def apply_followed(eve: User, name: str) -> None:
    """Delete a service that needs MLflow, and apply it again."""
    eve.run("delete", f"inferenceservices.bloomery.dev/{name}", f"--namespace={HOSTILE}", "--ignore-not-found")
    manifest = {
        "apiVersion": "bloomery.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": name, "namespace": HOSTILE},
        "spec": {"variants": [{"name": "v1", "model": {"mlflow": "models:/flowers/1"}, "weight": 100}]},
    }
    done = eve.run("apply", "--filename=-", stdin=yaml.safe_dump(manifest))
    assert done.returncode == 0, done.stderr


def test_pods_with_our_labels_are_never_asked_for_metrics(
    good: Kubectl, hostile: Kubectl, eve: User, quiet_seconds: float
) -> None:
    """A pod that claims to be a revision's, with an answer that takes seconds to parse, delays nobody."""
    serve(hostile, "bait", [variant("v1", 100, "s3://bloomery/models/evil")])
    deployment = eventually("the deployment", lambda: deployment_of(hostile, "bait"), seconds=60)
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    run_script(eve, "a0", QUADRATIC_METRICS, {}, labels=labels)
    for _ in range(5):
        hostile("annotate", "inferenceservices.bloomery.dev/bait", f"touched={time.monotonic()}", "--overwrite")
        assert reconcile_seconds(good) < quiet_seconds + MOST_DELAY_SECONDS
    assert "asked for" not in hostile("logs", "a0")


def deployment_of(kubectl: Kubectl, service: str) -> dict[str, Any] | None:
    """Return a Deployment of a service; None while there is none."""
    deployments = [each for each in kubectl.get("deployments") if each["metadata"]["name"].startswith(f"{service}--")]
    return deployments[0] if deployments else None


def test_a_registered_name_of_another_namespace_is_refused(hostile: Kubectl, eve: User) -> None:
    images = digit_images({"null": 0, "eins": 1}, each=30)
    upload(hostile, "store", class_folders(images, below="raw"), scheme="http")
    dataset = {
        "apiVersion": "bloomery.dev/v1alpha1",
        "kind": "Dataset",
        "metadata": {"name": "digits", "namespace": HOSTILE},
        "spec": {"source": {"uri": "s3://bloomery/raw"}},
    }
    promote = {"alias": "champion", "atLeast": 0, "betterThanCurrent": False}
    job = {
        "apiVersion": "bloomery.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": "thief", "namespace": HOSTILE},
        "spec": {
            "datasets": [{"name": "digits"}],
            "preset": "resnet18",
            "output": {"registeredModel": f"{GOOD}.flowers", "promote": promote},
        },
    }
    for manifest in (dataset, job):
        done = eve.run("apply", "--filename=-", stdin=yaml.safe_dump(manifest))
        assert done.returncode == 0, done.stderr
    refused(hostile, "trainingjobs", "thief", "ModelNameNotAllowed")
    assert hostile.get("jobs", "", "--selector=bloomery.dev/role=train") == []


def test_connections_without_a_key_stop_no_service(
    good: Kubectl, hostile: Kubectl, eve: User, quiet_seconds: float
) -> None:
    """Hundreds of idle, endless and announced-only requests from any pod; the service's pod goes on."""
    (pod,) = good.get("pods", "", "--selector=bloomery.dev/revision")
    run_script(eve, "idler", IDLE_CONNECTIONS, {"HOST": pod["status"]["podIP"]})
    eventually("the attack is over", lambda: "done" in hostile("logs", "idler"), seconds=240, interval=2)
    (after,) = good.get("pods", "", "--selector=bloomery.dev/revision")
    assert after["metadata"]["uid"] == pod["metadata"]["uid"]
    assert [status["restartCount"] for status in after["status"]["containerStatuses"]] == [0]
    assert reconcile_seconds(good) < quiet_seconds + MOST_DELAY_SECONDS


def run_script(
    eve: User, name: str, script: str, environment: Mapping[str, str], *, labels: Mapping[str, str] | None = None
) -> None:
    """Run a program in a pod of the hostile tenant, and wait until it is under way."""
    container = {
        "name": "attack",
        "image": f"{IMAGES}/operator:dev",
        "imagePullPolicy": "Never",
        "command": ["python", "-c", script],
        "env": [{"name": key, "value": value} for key, value in environment.items()],
        "securityContext": CONFINED,
    }
    manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": HOSTILE, "labels": dict(labels or {})},
        "spec": {"restartPolicy": "Never", "securityContext": RESTRICTED, "containers": [container]},
    }
    done = eve.run("apply", "--filename=-", stdin=yaml.safe_dump(manifest))
    assert done.returncode == 0, done.stderr
    eventually(
        f"{name} is under way",
        lambda: eve.run("logs", name, f"--namespace={HOSTILE}").stdout.strip(),
        seconds=120,
    )
