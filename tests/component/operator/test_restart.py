"""The operator process: kills lose nothing, an idle operator writes nothing, SIGTERM ends it at once."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from testing.fault_proxy import PASS, Call, Fault, FaultProxy
from testing.kubernetes_api import condition_of
from testing.operator_process import GATEWAY, OperatorProcess, running
from testing.samples import dataset, inference_service, prepared, retraining, trained, training_job, variant
from testing.scenario import resource_versions
from testing.simulated_controllers import World
from testing.waiting import TIMEOUT_SECONDS, eventually
from tests.component.operator_fixtures import NewOperator

IDLE_SECONDS = 20.0
STARTED_AT = "bloomery.dev/started-at"


@pytest.fixture
def watched_operator(
    new_operator: NewOperator, world: World, fault_proxy: FaultProxy, tmp_path: Path
) -> OperatorProcess:
    """Give an operator for the test's namespace that reaches the API server only through the fault proxy."""
    environment = {"KUBECONFIG": str(fault_proxy.kubeconfig(tmp_path)), "BLOOMERY_NAMESPACES": world.namespace}
    return new_operator(GATEWAY | environment)


def test_a_restarted_operator_sees_what_happened_meanwhile(own_operator: OperatorProcess, world: World) -> None:
    world.create(dataset())
    own_operator.start()
    world.wait_for("jobs", "flowers-prepare")
    own_operator.kill()
    world.succeed("flowers-prepare", prepared())
    world.create(training_job())
    with running(own_operator):
        world.wait_for_condition("datasets", "flowers", "Ready", "True")
        world.wait_for("jobs", "flowers-train")


def test_a_preparation_whose_result_was_never_read_runs_again(own_operator: OperatorProcess, world: World) -> None:
    world.create(dataset())
    own_operator.start()
    first = world.wait_for("jobs", "flowers-prepare")["metadata"]["uid"]
    own_operator.kill()
    world.succeed("flowers-prepare", prepared())
    for pod in world.names("pods"):
        world.delete("pods", pod)
    with running(own_operator):
        world.wait_for("jobs", "flowers-prepare", lambda job: job["metadata"]["uid"] != first)
        world.succeed("flowers-prepare", prepared())
        world.wait_for_condition("datasets", "flowers", "Ready", "True")


def test_a_job_that_ended_during_downtime_does_not_run_again(own_operator: OperatorProcess, world: World) -> None:
    world.create(dataset())
    world.create(training_job())
    own_operator.start()
    world.succeed("flowers-prepare", prepared())
    world.succeed("flowers-train", trained())
    world.wait_for_condition("trainingjobs", "flowers", "Complete", "True")
    own_operator.kill()
    world.delete("jobs", "flowers-train")
    world.delete("jobs", "flowers-prepare")
    with running(own_operator):
        world.create(dataset("tulips"))
        world.wait_for("jobs", "tulips-prepare")
        assert world.names("jobs") == {"tulips-prepare"}


def test_an_idle_operator_writes_nothing(
    watched_operator: OperatorProcess, fault_proxy: FaultProxy, world: World
) -> None:
    kubelet = _play(world)
    watched_operator.set("BLOOMERY_RESYNC_SECONDS", "2")
    for manifest in (dataset(), training_job(), retraining("idle", schedule="0 0 1 1 *"), inference_service()):
        world.create(manifest)
    world.create(dataset("waiting", source={"uri": "s3://tulips/raw", "secretRef": {"name": "missing"}}))
    world.create(training_job("waiting", datasets=[{"name": "missing"}]))
    # Its champion cannot be looked up, which is tried again and again.
    unknown = {"output": {"promote": {"alias": "champion"}}}
    world.create(retraining("waiting", onNewVersion=True, training=unknown))
    scaled = variant("v2", 50, autoscaling={"min": 1, "max": 3})
    world.create(inference_service("waiting", variants=[variant("v1", 50), scaled]))
    with running(watched_operator):
        eventually(lambda: next(kubelet) or _is_ready(world), "all are ready")
        world.wait_for_condition("inferenceservices", "waiting", "Ready", "False")
        eventually(fault_proxy.is_quiet, "nothing is written any more")
        before, writes = resource_versions(world), len(fault_proxy.writes)
        time.sleep(IDLE_SECONDS)
        assert [call.what for call in fault_proxy.writes[writes:]] == []
        assert resource_versions(world) == before
        assert 'bloomery_reconcile_total{kind="Dataset",result="success"}' in watched_operator.metrics()
        assert watched_operator.health().status_code == 200


def test_it_ends_at_once_when_asked(own_operator: OperatorProcess) -> None:
    own_operator.start()
    since = time.monotonic()
    assert own_operator.stop() == 0
    assert time.monotonic() - since < 3
    own_operator.assert_calm()


def test_a_stop_amid_many_events_is_calm(own_operator: OperatorProcess, world: World) -> None:
    for number in range(100):
        world.create(dataset(f"flowers{number}"))
    for _ in range(5):
        own_operator.start()
        assert own_operator.stop() == 0
    own_operator.assert_calm()


def test_without_a_gateway_only_one_variant_is_served(new_operator: NewOperator, world: World) -> None:
    """Several variants are refused in words."""
    with running(new_operator({"BLOOMERY_NAMESPACES": world.namespace})):
        world.create(inference_service("one", variants=[variant("v1", 100)]))
        world.set_ready(world.revision("one", "v1"), 1)
        world.wait_for_condition("inferenceservices", "one", "Ready", "True")
        url = world.wait_for("inferenceservices", "one")["status"]["url"]
        assert url == f"http://one.{world.namespace}.svc"
        world.create(inference_service("two", variants=[variant("v1", 50), variant("v2", 50)]))
        for name in ("v1", "v2"):
            world.set_ready(world.revision("two", name), 1)
        world.wait_for_condition("inferenceservices", "two", "Ready", "False", reason="GatewayRequired")
        assert world.names("httproutes") == set()


@pytest.mark.feature("S2")
def test_without_a_gateway_the_address_outlives_a_change_of_model(world: World, new_operator: NewOperator) -> None:
    with running(new_operator({"BLOOMERY_NAMESPACES": world.namespace})):
        world.create(inference_service(variants=[variant("v1", 100)]))
        first = world.revision("flowers", "v1")
        world.set_ready(first, 1)
        world.wait_for_condition("inferenceservices", "flowers", "Ready", "True")
        url = f"http://flowers.{world.namespace}.svc"
        assert world.wait_for("inferenceservices", "flowers")["status"]["url"] == url

        def leads_to(revision: str) -> None:
            label = "bloomery.dev/revision"
            world.wait_for("services", "flowers", lambda s: s["spec"]["selector"][label] == revision)

        leads_to(first)
        second = replace_model(world, first)
        leads_to(first)
        world.set_ready(second, 1)
        leads_to(second)
        # One of several is not the whole.
        several = [variant("v1", 50, model="s3://models/second"), variant("v2", 50)]
        world.patch("inferenceservices", "flowers", {"spec": {"variants": several}})
        world.wait_until_gone("services", "flowers")


@pytest.mark.feature("S5")
def test_auto_stop_survives_a_kill_of_the_operator(world: World, own_operator: OperatorProcess) -> None:
    """An annotation starts the service again."""
    with running(own_operator):
        world.create(inference_service(variants=[variant("v1", 100)], autoStop="8s"))
        revision = world.revision("flowers", "v1")
        world.set_ready(revision, 1)
        world.wait_for("inferenceservices", "flowers", lambda m: m.get("status", {}).get("stopsAt"))
        own_operator.kill()
        own_operator.start()
        wait_for_replicas(world, revision, 0)
        stopped = world.wait_for_condition("inferenceservices", "flowers", "Ready", "True", reason="Stopped")
        assert "kubectl annotate --overwrite inferenceservices.bloomery.dev flowers" in stopped["message"]
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        world.patch("inferenceservices", "flowers", {"metadata": {"annotations": {STARTED_AT: now}}})
        wait_for_replicas(world, revision, 1)
        wait_for_replicas(world, revision, 0)
        # Stopping and starting by hand is a start too.
        world.patch("inferenceservices", "flowers", {"spec": {"stopped": True}})
        world.wait_for("inferenceservices", "flowers", lambda m: "startedAt" not in m["status"])
        world.patch("inferenceservices", "flowers", {"spec": {"stopped": False}})
        wait_for_replicas(world, revision, 1)


@pytest.mark.feature("S10")
def test_an_operator_that_was_killed_goes_on_with_the_rollout(world: World, own_operator: OperatorProcess) -> None:
    with running(own_operator):
        steps = {"steps": [10, 50], "interval": "5s"}
        world.create(inference_service(variants=[variant("v1", 100)], rollout=steps))
        first = world.revision("flowers", "v1")
        world.set_ready(first, 1)
        world.wait_for_weights("flowers", {first: 100})
        second = replace_model(world, first)
        world.set_ready(second, 1)
        world.wait_for_weights("flowers", {first: 90, second: 10})
        begun = world.wait_for("inferenceservices", "flowers")["status"]["rollout"]
        own_operator.kill()
        assert world.weights("flowers") == {first: 90, second: 10}
        own_operator.start()
        world.wait_for_weights("flowers", {first: 50, second: 50})
        assert world.wait_for("inferenceservices", "flowers")["status"]["rollout"]["from"] == begun["from"]
        own_operator.kill()
        own_operator.start()
        world.wait_for_weights("flowers", {second: 100})


@pytest.mark.feature("S10")
@pytest.mark.parametrize(
    ("kind", "body_part", "fault"),
    [
        ("inferenceservices/status", '"aborted":true', Fault(unanswered=True)),
        ("httproutes", '"weight":0', Fault(lost=True)),
    ],
    ids=["once it is written down", "before the route has it"],
)
def test_an_abort_is_carried_out_although_the_operator_is_killed(
    kind: str, body_part: str, fault: Fault, world: World, watched_operator: OperatorProcess, fault_proxy: FaultProxy
) -> None:
    plan = {"steps": [10], "interval": "1h", "abortOn": {"errorRate": 0.5}}
    watched_operator.start()
    world.create(inference_service(variants=[variant("v1", 100)], rollout=plan))
    first = world.revision("flowers", "v1")
    world.set_ready(first, 1)
    world.wait_for_weights("flowers", {first: 100})
    second = replace_model(world, first)
    world.set_ready(second, 1)
    world.wait_for_weights("flowers", {first: 90, second: 10})

    def of_the_abort(call: Call) -> bool:
        return call.is_write and call.kind == kind and body_part in call.body.replace(" ", "")

    fault_proxy.faults = lambda call: fault if of_the_abort(call) else PASS
    world.set_ready(second, 0, unavailable_since="2026-01-01T00:00:00Z")
    assert fault_proxy.struck.wait(TIMEOUT_SECONDS)
    watched_operator.kill()
    assert world.weights("flowers") == {first: 90, second: 10}
    fault_proxy.faults = lambda _: PASS
    # Nor does it make a difference that what failed is there again.
    world.set_ready(second, 1)
    with running(watched_operator):
        world.wait_for_weights("flowers", {first: 100, second: 0})
        world.wait_for_condition("inferenceservices", "flowers", "Progressing", "False", reason="RolloutAborted")


def test_an_environment_that_is_not_right_is_answered_in_a_sentence(new_operator: NewOperator) -> None:
    operator = new_operator({"BLOOMERY_WORKERS": "many"})
    assert operator.run_to_its_end() == 2
    assert re.search(r"BLOOMERY_WORKERS: .*integer", operator.log_text())
    assert "Traceback" not in operator.log_text()


def test_a_missing_api_server_is_reported_in_a_sentence(new_operator: NewOperator, tmp_path: Path) -> None:
    operator = new_operator({"KUBECONFIG": str(tmp_path / "none")})
    assert operator.run_to_its_end() == 1
    assert "the operator cannot start" in operator.log_text()
    assert "Traceback" not in operator.log_text()


def test_loss_of_the_api_server_while_listing_is_reported(
    watched_operator: OperatorProcess, fault_proxy: FaultProxy
) -> None:
    """The report is one sentence."""
    fault_proxy.faults = lambda call: Fault(cut=call.is_list)
    assert watched_operator.run_to_its_end() == 1
    assert "the operator cannot start: Server disconnected" in watched_operator.log_text()
    assert "Traceback" not in watched_operator.log_text()


def test_an_unrecoverable_watch_ends_the_operator_with_a_sentence(
    watched_operator: OperatorProcess, fault_proxy: FaultProxy
) -> None:
    fault_proxy.faults = lambda call: Fault(failed=500 if call.is_watch else None)
    assert watched_operator.run_to_its_end() == 1
    assert "the operator ends, to be started again: a watch failed: " in watched_operator.log_text()
    assert "Traceback" not in watched_operator.log_text()


def replace_model(world: World, first: str) -> str:
    """Ask for another model; return its revision."""
    variants = [variant("v1", 100, model="s3://models/second")]
    world.patch("inferenceservices", "flowers", {"spec": {"variants": variants}})
    (new,) = eventually(lambda: set(world.deployments_of("flowers", "v1")) - {first}, "another revision")
    return new


def wait_for_replicas(world: World, revision: str, replicas: int) -> None:
    world.wait_for("deployments", revision, lambda d: d["spec"].get("replicas") == replicas)


def _play(world: World) -> Iterator[None]:
    """Be the Job controller, the kubelet and the gateway: look once at each turn, and let everything go well."""
    while True:
        for job, result in (("flowers-prepare", prepared()), ("flowers-train", trained())):
            manifest = world.get("jobs", job)
            if manifest is not None and not manifest.get("status", {}).get("completionTime"):
                world.succeed(job, result)
        for name in world.deployments_of("flowers", "v1"):
            deployment = world.get("deployments", name)
            if deployment is not None and not deployment.get("status", {}).get("readyReplicas"):
                world.set_ready(name, 1)
        route = world.get("httproutes", "flowers")
        if route is not None and not route.get("status", {}).get("parents"):
            world.accept_route("flowers")
        yield


def _is_ready(world: World) -> bool:
    ready = condition_of(world.get("inferenceservices", "flowers"), "Ready").get("status") == "True"
    complete = condition_of(world.get("trainingjobs", "flowers"), "Complete").get("status") == "True"
    prepared_ = condition_of(world.get("datasets", "flowers"), "Ready").get("status") == "True"
    return ready and complete and prepared_
