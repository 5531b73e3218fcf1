"""Rollouts of models and weights: steps, judgement by the pods' metrics, and aborts."""

from __future__ import annotations

import itertools
import json
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import pytest
from prometheus_client import start_http_server

from bloomery_model.capture import AnsweringModel, CaptureRecord
from bloomery_serving.capture.feedback import LiveAccuracy
from bloomery_serving.identity import ModelIdentity
from bloomery_serving.metrics import Metrics
from bloomery_serving.peer_comparison import ComparisonMetrics
from bloomery_serving.quality_metrics import QualityMetrics
from testing.kubernetes_api import Manifest, condition_of
from testing.samples import inference_service, variant
from testing.simulated_controllers import World
from testing.waiting import eventually

METRICS_PORT = 9090


class Server:
    """A model server's real counters, at an address of its own."""

    def __init__(self, address: str, metrics: Metrics, digest: str) -> None:
        self.address = address
        self.digest = digest
        self._metrics = metrics
        self._accuracy = LiveAccuracy(metrics.registry, variant="v1", digest=digest)
        self._quality = QualityMetrics(metrics.registry, ("daisies", "roses"), None)
        self._comparison = ComparisonMetrics(metrics.registry)

    def score(self, count: int, confidence: float) -> None:
        """Count images as if they had been answered with such a score."""
        for _ in range(count):
            self._quality.count(0, confidence, brightness=0.0, is_unknown=False)

    def compare(self, count: int, *, agree: bool) -> None:
        """Count images as if their class had been compared with that of what the server replaces."""
        for _ in range(count):
            self._comparison.count(agree=agree)

    def learn(self, count: int, *, by: Server, right: bool) -> None:
        """Count feedback about the answers of a server as if it had come to this one."""
        record = CaptureRecord(
            id="0", time=datetime.now(UTC), image="0.jpg", sha256="0", predicted="roses", scores={"roses": 0.9},
            reason="Random", service="flowers", namespace="default", variant="v1",
            model=AnsweringModel(digest=by.digest),
        )  # fmt: skip
        for _ in range(count):
            self._accuracy.count(record, "roses" if right else "daisies")

    def answer(self, count: int, *, code: int = 200, seconds: float = 0.05) -> None:
        """Count requests as if they had been answered."""
        for _ in range(count):
            self._metrics.count("/predict", code, "default", seconds)


@pytest.fixture
def servers() -> Iterator[Iterator[Server]]:
    """Give as many servers as a test takes."""
    with ExitStack() as stack:
        yield (_start(stack, number) for number in itertools.count(1))


def _start(stack: ExitStack, number: int) -> Server:
    address = f"127.{secrets.randbelow(200) + 20}.{secrets.randbelow(250)}.{number}"
    digest = f"sha256:{number:064x}"
    metrics = Metrics(ModelIdentity(digest=digest), service="model")
    server, thread = start_http_server(METRICS_PORT, address, metrics.registry)
    stack.callback(thread.join)
    stack.callback(server.server_close)
    stack.callback(server.shutdown)
    return Server(address, metrics, digest)


def rollout(*steps: int, interval: str = "0s", **abort_on: Any) -> Manifest:
    return {"steps": list(steps), "interval": interval} | ({"abortOn": abort_on} if abort_on else {})


def serving(world: World, **fields: Any) -> str:
    """Make a service whose first model has all the traffic; return its revision."""
    world.create(inference_service(variants=[variant("v1", 100)], **fields))
    first = world.revision("flowers", "v1")
    world.set_ready(first, 1)
    world.wait_for_weights("flowers", {first: 100})
    world.accept_route("flowers")
    return first


def replace_model(world: World, first: str, *, model: str = "s3://models/second") -> str:
    """Ask for another model and let its pods become ready; return its revision."""
    known = set(world.deployments_of("flowers", "v1"))
    world.patch("inferenceservices", "flowers", {"spec": {"variants": [variant("v1", 100, model=model)]}})
    (new,) = eventually(lambda: set(world.deployments_of("flowers", "v1")) - known, "another revision")
    assert world.weights("flowers")[first] == 100
    world.set_ready(new, 1)
    return new


def judged(
    world: World, servers: Iterator[Server], *, capture: Manifest | None = None, **abort_on: Any
) -> tuple[tuple[str, Server], tuple[str, Server]]:
    """Bring a rollout to its only step, at half of the traffic; return revision and server of the old and new model."""
    fields = {"capture": capture} if capture else {}
    first = serving(world, rollout=rollout(50, interval="1s", minRequests=20, **abort_on), **fields)
    old, new = next(servers), next(servers)
    world.run_server(first, ip=old.address)
    second = replace_model(world, first)
    world.run_server(second, ip=new.address)
    world.wait_for_weights("flowers", {first: 50, second: 50})
    world.wait_for("inferenceservices", "flowers", lambda m: "0 of 20" in m["status"]["rollout"].get("message", ""))
    return (first, old), (second, new)


def status_of(world: World) -> Manifest:
    status: Manifest = world.wait_for("inferenceservices", "flowers")["status"]
    return status


@pytest.mark.feature("S10")
@pytest.mark.usefixtures("operator")
def test_a_new_model_takes_over_by_the_steps(world: World) -> None:
    first = serving(world, rollout=rollout(10, 50, interval="3s"))
    second = replace_model(world, first)
    world.wait_for_weights("flowers", {first: 90, second: 10})
    progress = world.wait_for_condition("inferenceservices", "flowers", "Progressing", "True", reason="RollingOut")
    assert progress["message"].startswith("Step 1 of 2: 10 percent moved")
    assert condition_of(world.get("inferenceservices", "flowers"), "Ready")["status"] in ("True", "False")
    world.wait_for_weights("flowers", {first: 50, second: 50})
    world.wait_for_weights("flowers", {second: 100})
    world.wait_for("inferenceservices", "flowers", lambda m: not condition_of(m, "Progressing"))
    assert "rollout" not in status_of(world)


@pytest.mark.feature("S8", "S10")
@pytest.mark.usefixtures("operator")
def test_new_weights_take_over_by_the_steps(world: World) -> None:
    variants = [variant("v1", 100), variant("v2", 0)]
    world.create(inference_service(variants=variants, rollout=rollout(20, interval="3s")))
    names = {name: world.revision("flowers", name) for name in ("v1", "v2")}
    for name in names.values():
        world.set_ready(name, 1)
    world.wait_for_weights("flowers", {names["v1"]: 100, names["v2"]: 0})
    world.patch("inferenceservices", "flowers", {"spec": {"variants": [variant("v1", 0), variant("v2", 100)]}})
    world.wait_for_weights("flowers", {names["v1"]: 80, names["v2"]: 20})
    assert status_of(world)["traffic"] == "v1=80 v2=20"
    world.wait_for_weights("flowers", {names["v1"]: 0, names["v2"]: 100})


@pytest.mark.feature("S10")
@pytest.mark.usefixtures("operator")
def test_errors_put_all_weight_back_and_the_condition_says_the_numbers(world: World, servers: Iterator[Server]) -> None:
    first = serving(world, rollout=rollout(10, interval="1s", errorRate=0.02, minRequests=50))
    old, new = next(servers), next(servers)
    world.run_server(first, ip=old.address)
    second = replace_model(world, first)
    world.run_server(second, ip=new.address)
    world.wait_for_weights("flowers", {first: 90, second: 10})

    def waits(service: Manifest) -> bool:
        return "waits for 0 of 50 requests" in service["status"].get("rollout", {}).get("message", "")

    world.wait_for("inferenceservices", "flowers", waits)
    old.answer(450)
    new.answer(45)
    new.answer(5, code=500)
    aborted = world.wait_for_condition("inferenceservices", "flowers", "Progressing", "False", reason="RolloutAborted")
    assert aborted["message"] == (
        "Aborted at 10 percent, after 50 requests: 10.0% of them failed, and 0.0% of the 450 to what is replaced; "
        "2.0% more is allowed."
    )
    world.wait_for_weights("flowers", {first: 100, second: 0})
    world.accept_route("flowers")
    ready = world.wait_for_condition("inferenceservices", "flowers", "Ready", "True", reason="RolloutAborted")
    assert ready["message"] == aborted["message"]
    events = {e["message"] for e in world.list("events") if e["reason"] == "RolloutAborted" and e["type"] == "Warning"}
    assert events == {aborted["message"]}
    # Another spec is another try.
    world.patch("inferenceservices", "flowers", {"spec": {"rollout": {"abortOn": {"errorRate": 0.5}}}})
    world.wait_for_weights("flowers", {first: 90, second: 10})


@pytest.mark.feature("S10")
@pytest.mark.usefixtures("operator")
def test_a_slower_model_is_taken_back(world: World, servers: Iterator[Server]) -> None:
    (first, old), (second, new) = judged(world, servers, p99Ratio=1.5)
    old.answer(40, seconds=0.05)
    new.answer(40, seconds=0.2)
    aborted = world.wait_for_condition("inferenceservices", "flowers", "Progressing", "False", reason="RolloutAborted")
    assert "the 99th percentile is" in aborted["message"]
    world.wait_for_weights("flowers", {first: 100, second: 0})


@pytest.mark.feature("S10")
@pytest.mark.usefixtures("operator")
def test_a_model_that_fails_to_load_never_gets_traffic(world: World) -> None:
    first = serving(world, rollout=rollout(10))
    world.patch("inferenceservices", "flowers", {"spec": {"variants": [variant("v1", 100, model="s3://models/no")]}})
    both = eventually(lambda: b if len(b := world.deployments_of("flowers", "v1")) == 2 else None, "another revision")
    (second,) = set(both) - {first}
    world.set_ready(second, 0)
    world.wait_for_condition("inferenceservices", "flowers", "VariantsReady", "False")
    assert world.weights("flowers") == {first: 100}
    assert "rollout" not in status_of(world)


@pytest.mark.feature("S10")
@pytest.mark.usefixtures("operator")
def test_a_missing_pod_pauses_a_rollout_and_a_crash_aborts_it(world: World, servers: Iterator[Server]) -> None:
    first = serving(world, rollout=rollout(10, interval="10m", errorRate=0.02, minRequests=0))
    second = replace_model(world, first)
    server = next(servers)
    pod = world.run_server(second, ip=server.address)
    world.wait_for_weights("flowers", {first: 90, second: 10})
    # As on a node that is drained: a pod is gone, and the next one starts.
    world.set_ready(second, 0)
    missing = f"waits for a ready pod of {second}"
    world.wait_for("inferenceservices", "flowers", lambda m: missing in m["status"]["rollout"].get("message", ""))
    assert not status_of(world)["rollout"].get("aborted")
    container = {"name": "server", "image": "i", "imageID": "", "ready": False, "restartCount": 1}
    container |= {"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"exitCode": 139}}}
    world.patch("pods", pod, {"status": {"containerStatuses": [container]}}, subresource="status")
    aborted = world.wait_for_condition("inferenceservices", "flowers", "Progressing", "False", reason="RolloutAborted")
    assert aborted["message"].endswith(f"{second} has no ready pod left, and pod {pod} ended with exit code 139.")


@pytest.mark.feature("S10", "O6")
@pytest.mark.usefixtures("operator")
def test_unreadable_metrics_pause_a_rollout_and_are_shown(world: World) -> None:
    first = serving(world, rollout=rollout(10, interval="0s", errorRate=0.02, minRequests=0))
    second = replace_model(world, first)
    # Nothing listens there, as behind a network policy.
    world.run_server(second, ip=f"127.{secrets.randbelow(200) + 20}.{secrets.randbelow(250)}.9")
    world.wait_for_weights("flowers", {first: 90, second: 10})
    held = "waits for the metrics of 1 pods, which cannot be read"
    world.wait_for("inferenceservices", "flowers", lambda m: held in m["status"]["rollout"].get("message", ""))
    shown = world.wait_for_condition(
        "inferenceservices", "flowers", "VariantsReady", "True", reason="MetricsUnreadable"
    )
    assert ":9090; let the operator's pods reach this port" in shown["message"]


@pytest.mark.feature("S9")
@pytest.mark.usefixtures("operator")
def test_a_shadow_gets_copies_and_no_weight(world: World) -> None:
    variants = [variant("v1", 100), variant("shadow", 0, mirrorPercent=25)]
    world.create(inference_service(variants=variants))
    names = {name: world.revision("flowers", name) for name in ("v1", "shadow")}
    for name in names.values():
        world.set_ready(name, 1)
    route = world.wait_for("httproutes", "flowers", lambda r: len(r["spec"]["rules"][-1]["filters"]) == 2)
    mirror = route["spec"]["rules"][-1]["filters"][-1]["requestMirror"]
    assert (mirror["backendRef"]["name"], mirror["percent"]) == (names["shadow"], 25)
    assert world.weights("flowers") == {names["v1"]: 100, names["shadow"]: 0}
    assert all(len(rule["filters"]) == 1 for rule in route["spec"]["rules"][:-1])


@pytest.mark.feature("S12")
@pytest.mark.usefixtures("operator")
def test_a_model_without_digest_is_pinned_to_its_first_pods_digest(world: World, servers: Iterator[Server]) -> None:
    first = serving(world)
    before = world.wait_for("deployments", first)["metadata"]["generation"]
    server = next(servers)
    world.run_server(first, ip=server.address)
    shown = world.wait_for("inferenceservices", "flowers", lambda m: m["status"]["variants"][0].get("digest"))
    assert shown["status"]["variants"][0]["digest"] == server.digest
    assert world.wait_for("configmaps", first)["data"] == {"digest": server.digest}
    (reference,) = [
        entry["valueFrom"]["configMapKeyRef"]
        for entry in world.wait_for("deployments", first)["spec"]["template"]["spec"]["containers"][0]["env"]
        if entry["name"] == "MODEL_DIGEST"
    ]
    assert reference == {"name": first, "key": "digest", "optional": True}
    # No pod restarts for it.
    assert world.wait_for("deployments", first)["metadata"]["generation"] == before


@pytest.mark.feature("S21")
@pytest.mark.usefixtures("operator")
def test_a_less_confident_model_is_taken_back(world: World, servers: Iterator[Server]) -> None:
    (_, old), (_, new) = judged(world, servers, confidenceDrop=0.1)
    for server, confidence in ((old, 0.9), (new, 0.4)):
        server.score(40, confidence)
        server.answer(40)
    aborted = world.wait_for_condition("inferenceservices", "flowers", "Progressing", "False", reason="RolloutAborted")
    assert "the mean score of the answers is 0.400, that of what is replaced 0.900" in aborted["message"]


@pytest.mark.feature("S21")
@pytest.mark.usefixtures("operator")
def test_a_model_that_answers_otherwise_is_taken_back(world: World, servers: Iterator[Server]) -> None:
    (first, old), (second, new) = judged(world, servers, disagreement=0.2)
    # The new pods get the address of what they replace with their start, and need no restart for it.
    about = json.loads(world.wait_for("configmaps", f"{second}-about")["data"]["about.json"])
    assert about["peer"] == f"http://{first}.{world.namespace}.svc:8091"
    ports = {port["name"]: port["port"] for port in world.wait_for("services", first)["spec"]["ports"]}
    assert ports["compare"] == 8091
    assert world.wait_for("secrets", "flowers-comparison")["data"]["token"]
    for server in (old, new):
        server.score(40, 1.0)
        server.answer(40)
    new.compare(10, agree=True)
    waiting = "waits for 10 of 20 comparisons"
    world.wait_for("inferenceservices", "flowers", lambda m: waiting in m["status"]["rollout"]["message"])
    new.compare(10, agree=False)
    aborted = world.wait_for_condition("inferenceservices", "flowers", "Progressing", "False", reason="RolloutAborted")
    assert "of 20 compared images, 50.0% have another class than what is replaced gives them" in aborted["message"]
    world.wait_for_weights("flowers", {first: 100, second: 0})


@pytest.mark.feature("S21")
@pytest.mark.usefixtures("operator")
def test_model_that_feedback_calls_wrong_is_taken_back(world: World, servers: Iterator[Server]) -> None:
    capture = {"uri": "s3://captures/flowers", "percent": 10}
    (first, old), (second, new) = judged(world, servers, capture=capture, liveAccuracyDrop=0.05)
    # Feedback reaches any pod, whichever answered.
    old.learn(25, by=old, right=True)
    new.learn(15, by=old, right=True)
    old.learn(15, by=new, right=True)
    old.learn(10, by=new, right=False)
    new.learn(15, by=new, right=False)
    for server in (old, new):
        server.answer(40)
    aborted = world.wait_for_condition("inferenceservices", "flowers", "Progressing", "False", reason="RolloutAborted")
    reason = "by the feedback, 37.5% of 40 answers are right, and 100.0% of 40 of what is replaced; 5.0% less"
    assert reason in aborted["message"]
    world.wait_for_weights("flowers", {first: 100, second: 0})


@pytest.mark.feature("S21")
@pytest.mark.usefixtures("operator")
def test_rollout_waits_for_approval(world: World) -> None:
    first = serving(world, rollout=rollout(10, 50) | {"pauseAt": [50]})
    second = replace_model(world, first)
    world.wait_for_weights("flowers", {first: 50, second: 50})

    def waits(service: Manifest) -> bool:
        return "waits for approval" in service["status"].get("rollout", {}).get("message", "")

    state = world.wait_for("inferenceservices", "flowers", waits)["status"]["rollout"]
    earlier = {"bloomery.dev/approved": f"{state['generation']}/50/2026-05-01T11:00:00Z"}
    world.patch("inferenceservices", "flowers", {"metadata": {"annotations": earlier}})
    approved = {"bloomery.dev/approved": f"{state['generation']}/50/{state['since']}"}
    assert world.weights("flowers") == {first: 50, second: 50}
    world.patch("inferenceservices", "flowers", {"metadata": {"annotations": approved}})
    world.wait_for_weights("flowers", {second: 100})
