"""Serving in real pods: rollouts under load, aliases of a real registry, shadows, stop and start, drains."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import yaml
from mlflow.tracking import MlflowClient

from bloomery_model import Preprocess
from bloomery_model.folder import METADATA
from bloomery_trainer import model_folder
from bloomery_trainer.models import export
from dev.paths import ROOT
from testing.cluster_store import digit_images, put_files
from testing.dev_cluster import (
    Kubectl,
    OperatorKiller,
    eventually,
    gateway_address,
    reachable_mlflow,
    read_metrics,
)
from testing.load import Load, Outcome

pytestmark = pytest.mark.extended

MODELS = "s3://bloomery/models/e2e-serving"
REFRESH = "bloomery.dev/refresh"
CLASSES = ("null", "eins", "凉皮")
SIDE = 32
SMALL = {"requests": {"cpu": "50m", "memory": "300Mi"}, "limits": {"memory": "1Gi"}}


class Bright(torch.nn.Module):
    """Answers by an image's brightness; `layers` of convolutions that change nothing make it slow."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.slow = torch.nn.Sequential(*(torch.nn.Conv2d(3, 3, 31, padding=15, bias=False) for _ in range(layers)))
        self.weight = torch.nn.Parameter(torch.linspace(-1, 1, len(CLASSES))[None, :])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images + 0 * self.slow(images)).mean(dim=(1, 2, 3))[:, None] * self.weight


class Constant(torch.nn.Module):
    """Answers one class, and is sure of it."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 0 * images.mean(dim=(1, 2, 3))[:, None] + torch.tensor([[0.0, 100.0, 0.0]])


def make_model(folder: Path, network: torch.nn.Module | None = None) -> dict[str, bytes]:
    """The files of a model folder, as a training leaves them."""
    folder.mkdir()
    examples = torch.rand(2, 3, SIDE, SIDE)
    preprocess = Preprocess.for_size(SIDE)
    export.write_model(folder, network or Bright(layers=0), classes=CLASSES, preprocess=preprocess, examples=examples)
    (folder / METADATA).write_bytes(model_folder.metadata(folder, {}))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def models(system: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Model folders in the store: good ones, a slow one, one of elsewhere, one whose bytes are not what it says."""
    folder = tmp_path_factory.mktemp("models")
    made = {name: make_model(folder / name) for name in ("first", "second", "broken")}
    made["slow"] = make_model(folder / "slow", Bright(layers=150))
    made["constant"] = make_model(folder / "constant", Constant())
    made["broken"]["model.onnx"] += b"!"
    made["elsewhere"] = {name: made["first"][name] for name in ("model.onnx", "labels.txt", "preprocess.json")}
    for name, files in made.items():
        put_files(f"{MODELS}/{name}", files)
    return {name: f"{MODELS}/{name}" for name in made}


@pytest.fixture(scope="module")
def kubectl(make_namespace: Callable[[str], Kubectl], models: Mapping[str, str]) -> Kubectl:
    return make_namespace("e2e-serving")


@pytest.fixture(scope="module")
def image() -> bytes:
    return digit_images({"null": 0}, each=1)["null"][0]


@pytest.fixture(scope="module")
def gateway(system: Kubectl) -> str:
    """The gateway's address within the cluster."""
    return gateway_address(system)


def variant(name: str, weight: int, uri: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "model": {"uri": uri}, "weight": weight, "resources": SMALL, **fields}


def serve(kubectl: Kubectl, name: str, variants: list[dict[str, Any]], **spec: Any) -> None:
    manifest = {
        "apiVersion": "bloomery.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": name},
        "spec": {"variants": variants, **spec},
    }
    done = kubectl.apply(manifest)
    assert done.returncode == 0, done.stderr


def status_of(kubectl: Kubectl, name: str) -> dict[str, Any]:
    status: dict[str, Any] = kubectl.get("isvc", name).get("status", {})
    return status


def condition(kubectl: Kubectl, name: str, type_: str) -> dict[str, Any]:
    conditions = status_of(kubectl, name).get("conditions", [])
    return next((c for c in conditions if c["type"] == type_), {})


def key_of(kubectl: Kubectl, name: str) -> str:
    return kubectl.secret(f"{name}-api-key")["default"]


def ask(kubectl: Kubectl, name: str, image: bytes, **headers: str) -> httpx.Response:
    url = status_of(kubectl, name)["url"]
    headers = {"content-type": "image/png", "authorization": key_of(kubectl, name), **headers}
    return httpx.post(f"{url}/predict", content=image, headers=headers, timeout=60)


def under_load(
    kubectl: Kubectl, gateway: str, name: str, image: bytes, *, rate: float = 100, count: int = 100_000
) -> Load:
    path = f"{gateway}/{kubectl.namespace}/{name}/predict"
    return Load(kubectl, f"load-{name}").start(path, key=key_of(kubectl, name), image=image, rate=rate, count=count)


def assert_nothing_lost(outcome: Outcome) -> None:
    print(
        f"{outcome.requests} requests in {outcome.seconds:.0f} s, {outcome.wrong_count} lost, "
        f"p50 {outcome.p50 * 1000:.1f} ms, p99 {outcome.p99 * 1000:.1f} ms: {outcome.answers}"
    )
    assert outcome.wrong == []


@pytest.mark.feature("S8", "S10")
def test_no_request_is_lost_whatever_is_done_to_a_service(
    kubectl: Kubectl, system: Kubectl, gateway: str, models: Mapping[str, str], image: bytes
) -> None:
    serve(kubectl, "busy", [variant("v1", 100, models["first"], replicas=2), variant("v2", 0, models["second"])])
    kubectl.wait("isvc/busy", "Ready", seconds=120)
    load = under_load(kubectl, gateway, "busy", image, rate=120)
    for weights in ((50, 50), (90, 10)):
        change_weights(kubectl, "busy", *weights)
        time.sleep(10)  # the load is to meet each split for a while
    kubectl("scale", "isvc/busy", "--replicas=2")
    eventually("v2 has two pods", lambda: ready_pods(kubectl, "busy", "v2") == 2, seconds=60)
    kubectl("delete", "pod", pod_of(kubectl, "busy", "v1"), "--wait=false")
    time.sleep(15)
    kubectl("annotate", "isvc", "busy", f"{REFRESH}=a-rolling-update")
    eventually("the pods were replaced", lambda: all_refreshed(kubectl, "busy", "a-rolling-update"), seconds=150)
    with OperatorKiller(system, work_seconds=3):
        second = variant("v1", 90, models["second"], replicas=2)
        patch = {
            "spec": {
                "rollout": {"steps": [20, 60], "interval": "5s"},
                "variants": [second, variant("v2", 10, models["second"])],
            }
        }
        kubectl("patch", "isvc", "busy", "--type=merge", f"--patch={json.dumps(patch)}")
        eventually("the new model has it all", lambda: models_of(kubectl, "busy") == {models["second"]}, seconds=300)
    kubectl("scale", "isvc/busy", "--replicas=1")
    eventually("20,000 requests", lambda: "\n20000 asked" in load.log(), seconds=300, interval=3)
    outcome = load.stop()
    assert outcome.requests >= 20_000
    assert_nothing_lost(outcome)


def change_weights(kubectl: Kubectl, name: str, *weights: int) -> None:
    patch = [
        {"op": "replace", "path": f"/spec/variants/{number}/weight", "value": weight}
        for number, weight in enumerate(weights)
    ]
    kubectl("patch", "isvc", name, "--type=json", f"--patch={json.dumps(patch)}")


def pods_of(kubectl: Kubectl, name: str, of_variant: str) -> list[dict[str, Any]]:
    selector = f"--selector=bloomery.dev/inferenceservice={name},bloomery.dev/variant={of_variant}"
    pods: list[dict[str, Any]] = kubectl.get("pods", "", selector)
    return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]


def is_ready(pod: Mapping[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))


def ready_pods(kubectl: Kubectl, name: str, of_variant: str) -> int:
    return sum(map(is_ready, pods_of(kubectl, name, of_variant)))


def pod_of(kubectl: Kubectl, name: str, of_variant: str) -> str:
    pod_name: str = pods_of(kubectl, name, of_variant)[0]["metadata"]["name"]
    return pod_name


def all_refreshed(kubectl: Kubectl, name: str, value: str) -> bool:
    pods = pods_of(kubectl, name, "v1") + pods_of(kubectl, name, "v2")
    values = [pod["metadata"].get("annotations", {}).get(REFRESH) for pod in pods]
    return all(map(is_ready, pods)) and values == [value] * len(pods)


def models_of(kubectl: Kubectl, name: str) -> set[str]:
    """The models that have a share of the traffic now."""
    status = status_of(kubectl, name)
    return set() if "rollout" in status else {v["model"] for v in status["variants"] if v["weight"]}


def message_of_abort(kubectl: Kubectl, name: str, *, seconds: float) -> str:
    """Wait until a rollout is aborted; return why."""

    def find_abort() -> dict[str, Any] | None:
        progressing = condition(kubectl, name, "Progressing")
        return progressing if progressing.get("reason") == "RolloutAborted" else None

    message = str(eventually("the rollout is aborted", find_abort, seconds=seconds)["message"])
    print(message)
    return message


@pytest.mark.feature("S10")
def test_a_slower_model_is_rolled_back_with_numbers_in_the_condition(
    kubectl: Kubectl, gateway: str, models: Mapping[str, str], image: bytes
) -> None:
    rollout = {"steps": [30, 60], "interval": "2s", "abortOn": {"p99Ratio": 3, "errorRate": 0.05, "minRequests": 40}}
    serve(kubectl, "guarded", [variant("v1", 100, models["first"])], rollout=rollout)
    kubectl.wait("isvc/guarded", "Ready", seconds=120)
    load = under_load(kubectl, gateway, "guarded", image, rate=20)
    serve(kubectl, "guarded", [variant("v1", 100, models["slow"])], rollout=rollout)
    message = message_of_abort(kubectl, "guarded", seconds=150)
    assert "the 99th percentile is" in message
    eventually("all weight is back", lambda: ask(kubectl, "guarded", image).headers["x-model-digest"], seconds=10)
    outcome = load.stop()
    assert_nothing_lost(outcome)
    first = digest_of(kubectl, "guarded", models["first"], image)
    answers = {ask(kubectl, "guarded", image).headers["x-model-digest"] for _ in range(20)}
    assert answers == {first}


@pytest.mark.feature("S21")
def test_model_of_one_class_is_rolled_back_and_a_good_one_is_not(
    kubectl: Kubectl, gateway: str, models: Mapping[str, str], image: bytes
) -> None:
    abort_on = {"disagreement": 0.2, "minRequests": 20}
    rollout = {"steps": [50], "interval": "2s", "abortOn": abort_on}
    serve(kubectl, "compared", [variant("v1", 100, models["first"])], rollout=rollout)
    kubectl.wait("isvc/compared", "Ready", seconds=120)
    load = under_load(kubectl, gateway, "compared", image, rate=5)
    serve(kubectl, "compared", [variant("v1", 100, models["constant"])], rollout=rollout)
    message = message_of_abort(kubectl, "compared", seconds=240)
    assert "100.0% have another class than what is replaced gives them" in message
    (requests,) = map(int, re.findall(r"after (\d+) requests", message))
    assert requests <= abort_on["minRequests"] + 50
    serve(kubectl, "compared", [variant("v1", 100, models["second"])], rollout=rollout)
    eventually("the good model takes over", lambda: models_of(kubectl, "compared") == {models["second"]}, seconds=240)
    assert_nothing_lost(load.stop())


def digest_of(kubectl: Kubectl, name: str, model: str, image: bytes) -> str:
    """The digest of a model, asked of a service that has only that."""
    if kubectl.run("get", "isvc", f"{name}-digest", check=False).returncode:
        serve(kubectl, f"{name}-digest", [variant("v1", 100, model)])
    kubectl.wait(f"isvc/{name}-digest", "Ready", seconds=120)
    digest = ask(kubectl, f"{name}-digest", image).headers["x-model-digest"]
    kubectl("delete", "isvc", f"{name}-digest", "--wait=false")
    return digest


@pytest.mark.feature("S10", "S12")
def test_a_model_with_a_wrong_digest_never_gets_traffic(
    kubectl: Kubectl, models: Mapping[str, str], image: bytes
) -> None:
    serve(kubectl, "careful", [variant("v1", 100, models["first"])])
    kubectl.wait("isvc/careful", "Ready", seconds=120)
    before = ask(kubectl, "careful", image).headers["x-model-digest"]
    serve(kubectl, "careful", [variant("v1", 100, models["broken"])])
    refused = eventually(
        "the condition names the file",
        lambda: c if (c := condition(kubectl, "careful", "VariantsReady")).get("reason") == "DigestMismatch" else None,
        seconds=60,
    )
    assert "model.onnx" in refused["message"]
    assert {ask(kubectl, "careful", image).headers["x-model-digest"] for _ in range(10)} == {before}
    serve(kubectl, "careful", [variant("v1", 100, models["first"])])
    kubectl.wait("isvc/careful", "Ready", seconds=60)


@contextmanager
def registry() -> Iterator[MlflowClient]:
    """The cluster's MLflow, through a port-forward."""
    with reachable_mlflow() as uri:
        yield MlflowClient(tracking_uri=uri, registry_uri=uri)


@pytest.mark.feature("S11", "S12")
def test_moving_an_alias_in_mlflow_deploys_the_version_within_thirty_seconds(
    kubectl: Kubectl, models: Mapping[str, str], image: bytes
) -> None:
    name = "e2e-serving"
    tags = {"bloomery.dev/trainingjob": f"{kubectl.namespace}/earlier", "bloomery.dev/dataset": "digits"}
    with registry() as client:
        client.create_registered_model(name)
        try:
            for which in ("first", "second"):
                uri = {"bloomery.dev/uri": models[which]}
                client.create_model_version(name, source=models[which], tags=tags | uri)
            client.set_registered_model_alias(name, "champion", "1")
            source = {"mlflow": f"models:/{name}@champion", "update": "Follow"}
            serve(kubectl, "followed", [variant("v1", 100, "") | {"model": source}])
            kubectl.wait("isvc/followed", "Ready", seconds=120)
            assert ask(kubectl, "followed", image).headers["x-model"] == f"{name}/1"
            client.set_registered_model_alias(name, "champion", "2")
            moved = time.monotonic()
            eventually(
                "version 2 answers",
                lambda: ask(kubectl, "followed", image).headers["x-model"] == f"{name}/2",
                seconds=30,
            )
            print(f"version 2 answered {time.monotonic() - moved:.1f} s after the alias moved")
            noted = f"bloomery.dev/served-by.bloomery.{kubectl.namespace}.followed"
            eventually("the version is tagged", lambda: noted in client.get_model_version(name, "2").tags, seconds=30)
            shown = status_of(kubectl, "followed")["variants"][0]
            assert (shown["model"], shown["trainingJob"], shown["dataset"]) == (f"{name}/2", "earlier", "digits")
            kubectl("delete", "isvc", "followed")
            eventually("the tag goes", lambda: noted not in client.get_model_version(name, "2").tags, seconds=60)
        finally:
            client.delete_registered_model(name)


@pytest.mark.feature("S1", "S2")
def test_a_foreign_model_is_imported_by_a_job_and_served(
    kubectl: Kubectl, models: Mapping[str, str], image: bytes
) -> None:
    job = yaml.safe_load((ROOT / "examples" / "import" / "import.yaml").read_text(encoding="utf-8"))
    job["spec"]["template"]["spec"]["containers"][0]["args"][0] = models["elsewhere"]
    assert kubectl.apply(job).returncode == 0
    with registry() as client:
        try:
            kubectl.wait("job/import-model", "Complete", seconds=180)
            assert client.get_model_version_by_alias("of-elsewhere", "champion").status == "READY"
            source = {"mlflow": "models:/of-elsewhere@champion"}
            serve(kubectl, "imported", [variant("v1", 100, "") | {"model": source}])
            kubectl.wait("isvc/imported", "Ready", seconds=120)
            answer = ask(kubectl, "imported", image)
            assert answer.json()["label"] in CLASSES
            assert answer.headers["x-model"] == "of-elsewhere/1"
        finally:
            client.delete_registered_model("of-elsewhere")


@pytest.mark.feature("S9")
def test_a_shadow_gets_copies_and_its_answers_reach_no_client(
    kubectl: Kubectl, models: Mapping[str, str], image: bytes
) -> None:
    shadow = variant("shadow", 0, models["second"], mirrorPercent=100)
    serve(kubectl, "mirrored", [variant("v1", 100, models["first"]), shadow])
    kubectl.wait("isvc/mirrored", "Ready", seconds=120)
    answers = {ask(kubectl, "mirrored", image).headers["x-variant"] for _ in range(30)}
    assert answers == {"v1"}
    eventually("the shadow has seen them all", lambda: predictions(kubectl, "mirrored", "shadow") >= 30, seconds=20)
    direct = ask(kubectl, "mirrored", image, **{"x-variant": "shadow"})
    assert direct.headers["x-variant"] == "shadow"


def predictions(kubectl: Kubectl, name: str, of_variant: str) -> float:
    """Return the number of predictions that a variant's pod counted."""
    text = read_metrics(kubectl, pod_of(kubectl, name, of_variant))
    lines = [line for line in text.splitlines() if line.startswith("bloomery_requests_total") and "/predict" in line]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


@pytest.mark.feature("S13")
def test_keys_change_without_a_restart_and_are_counted_by_name(
    kubectl: Kubectl, models: Mapping[str, str], image: bytes
) -> None:
    serve(kubectl, "keyed", [variant("v1", 100, models["first"])])
    kubectl.wait("isvc/keyed", "Ready", seconds=120)
    old, url = key_of(kubectl, "keyed"), status_of(kubectl, "keyed")["url"]
    kubectl("patch", "secret", "keyed-api-key", '--patch={"stringData":{"alice":"of-alice-and-nobody-else"}}')

    def code(key: str) -> int:
        headers = {"authorization": f"Bearer {key}", "content-type": "image/png"}
        return httpx.post(f"{url}/predict", content=image, headers=headers, timeout=30).status_code

    began = time.monotonic()
    eventually("alice's key opens", lambda: code("of-alice-and-nobody-else") == 200, seconds=150, interval=1)
    print(f"a new key opened after {time.monotonic() - began:.0f} s")
    assert code(old) == 200
    kubectl("patch", "secret", "keyed-api-key", "--type=json", '--patch=[{"op":"remove","path":"/data/default"}]')
    eventually("the old key is shut out", lambda: code(old) == 401, seconds=150, interval=1)
    assert code("of-alice-and-nobody-else") == 200
    assert pods_of(kubectl, "keyed", "v1")[0]["status"]["containerStatuses"][0]["restartCount"] == 0
    text = read_metrics(kubectl, pod_of(kubectl, "keyed", "v1"))
    assert 'key="alice"' in text
    assert 'key="default"' in text


@pytest.mark.feature("S5", "S6")
def test_a_service_is_stopped_started_stops_by_itself_and_leaves_nothing(
    kubectl: Kubectl, system: Kubectl, models: Mapping[str, str], image: bytes
) -> None:
    serve(kubectl, "shop", [variant("v1", 100, models["first"])], path=f"/{kubectl.namespace}/e2e-shop")
    kubectl.wait("isvc/shop", "Ready", seconds=120)
    url, key = status_of(kubectl, "shop")["url"], key_of(kubectl, "shop")
    assert url.endswith("/e2e-shop")
    kubectl("patch", "isvc", "shop", "--type=merge", '--patch={"spec":{"stopped":true}}')
    eventually("no pod is left", lambda: not pods_of(kubectl, "shop", "v1"), seconds=90)
    assert status_of(kubectl, "shop")["phase"] == "Stopped"
    # Until the last pods have drained they answer, and a proxy may hold a request for one that has just gone.
    eventually(
        "503 at its path",
        lambda: httpx.post(f"{url}/predict", content=image, timeout=60).status_code == 503,
        seconds=60,
    )
    kubectl("patch", "isvc", "shop", "--type=merge", '--patch={"spec":{"stopped":false,"autoStop":"25s"}}')
    kubectl.wait("isvc/shop", "Ready", seconds=60)
    assert key_of(kubectl, "shop") == key
    assert ask(kubectl, "shop", image).status_code == 200
    system("rollout", "restart", "deployment/bloomery-operator")
    stopped = eventually(
        "it stops by itself", lambda: status_of(kubectl, "shop")["phase"] == "Stopped" or None, seconds=90
    )
    assert stopped
    assert "Stopped by itself 25s after its start" in condition(kubectl, "shop", "Ready")["message"]
    kubectl("delete", "isvc", "shop")
    kinds = "deployments,replicasets,pods,services,secrets,configmaps,poddisruptionbudgets,hpa"
    kinds += ",httproutes,backendtrafficpolicies"
    of_shop = "--selector=bloomery.dev/inferenceservice=shop"
    eventually("nothing is left", lambda: kubectl("get", kinds, of_shop, "-oname") == "", seconds=120)


@pytest.mark.feature("S5")
def test_the_path_of_an_older_service_is_refused_in_words(
    kubectl: Kubectl, models: Mapping[str, str], image: bytes
) -> None:
    """The older service goes on answering."""
    serve(kubectl, "older", [variant("v1", 100, models["first"])], path=f"/{kubectl.namespace}/e2e-clash")
    kubectl.wait("isvc/older", "Ready", seconds=120)
    serve(kubectl, "younger", [variant("v1", 100, models["second"])], path=f"/{kubectl.namespace}/e2e-clash/more")
    clash = eventually(
        "the younger says so",
        lambda: c if (c := condition(kubectl, "younger", "Ready")).get("reason") == "PathTaken" else None,
        seconds=60,
    )
    assert "/e2e-clash/more' overlaps with" in clash["message"]
    assert ask(kubectl, "older", image).status_code == 200
    kubectl("delete", "isvc", "younger", "older", "--wait=false")


@pytest.mark.feature("S15")
def test_an_eviction_waits_for_another_pod_and_loses_no_request(
    kubectl: Kubectl, gateway: str, models: Mapping[str, str], image: bytes
) -> None:
    serve(kubectl, "drained", [variant("v1", 100, models["first"], replicas=2)])
    kubectl.wait("isvc/drained", "Ready", seconds=120)
    load = under_load(kubectl, gateway, "drained", image, rate=50)
    first, second = (pod["metadata"]["name"] for pod in pods_of(kubectl, "drained", "v1"))
    assert evict(kubectl, first) == 0
    # One at a time: the other may go only when a new one is ready.
    assert evict(kubectl, second) != 0
    eventually("the second may go", lambda: evict(kubectl, second) == 0, seconds=60, interval=1)
    eventually("two new pods are ready", lambda: ready_pods(kubectl, "drained", "v1") == 2, seconds=60)
    assert_nothing_lost(load.stop())


def evict(kubectl: Kubectl, pod: str) -> int:
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod, "namespace": kubectl.namespace},
    }
    path = f"/api/v1/namespaces/{kubectl.namespace}/pods/{pod}/eviction"
    return kubectl.run("create", "--raw", path, "--filename=-", stdin=json.dumps(eviction), check=False).returncode


@pytest.mark.feature("S8", "S15")
def test_the_clusters_autoscaler_sets_a_variants_pods(kubectl: Kubectl, models: Mapping[str, str]) -> None:
    """The operator leaves the number as it is."""

    def scaled(fewest: int) -> dict[str, Any]:
        return variant("v1", 100, models["first"], autoscaling={"min": fewest, "max": 3})

    serve(kubectl, "scaled", [scaled(1)])
    kubectl.wait("isvc/scaled", "Ready", seconds=120)
    revision = status_of(kubectl, "scaled")["variants"][0]["revision"]
    # No metrics are measured in this cluster; below its fewest pods, an autoscaler acts all the same.
    serve(kubectl, "scaled", [scaled(2)])
    eventually("the autoscaler has made two", lambda: ready_pods(kubectl, "scaled", "v1") == 2, seconds=90)
    serve(kubectl, "scaled", [scaled(2)], displayName="another spec")
    eventually("the new spec is seen", lambda: is_observed(kubectl, "scaled"), seconds=30)
    assert kubectl.get("deployment", revision)["spec"]["replicas"] == 2
    fields = kubectl.get("deployment", revision, "--show-managed-fields")["metadata"]["managedFields"]
    owners = {f["manager"] for f in fields if "f:replicas" in f["fieldsV1"].get("f:spec", {})}
    assert owners == {"kube-controller-manager"}
    kubectl("delete", "isvc", "scaled", "--wait=false")


def is_observed(kubectl: Kubectl, name: str) -> bool:
    service = kubectl.get("isvc", name)
    return bool(service["status"]["observedGeneration"] == service["metadata"]["generation"])


@pytest.mark.feature("S16")
def test_a_gpu_is_one_more_line_of_the_spec(kubectl: Kubectl, models: Mapping[str, str]) -> None:
    """The condition shows the scheduler's message if there is no GPU."""
    resources = SMALL | {"limits": SMALL["limits"] | {"nvidia.com/gpu": 1}}
    serve(kubectl, "gpu", [variant("v1", 100, models["first"]) | {"resources": resources}])
    waiting = eventually(
        "no node has one",
        lambda: c if (c := condition(kubectl, "gpu", "VariantsReady")).get("reason") == "Unschedulable" else None,
        seconds=60,
    )
    assert "nvidia.com/gpu" in waiting["message"]
    image = pods_of(kubectl, "gpu", "v1")[0]["spec"]["containers"][0]["image"]
    assert "serving-gpu" in image
    kubectl("delete", "isvc", "gpu", "--wait=false")
