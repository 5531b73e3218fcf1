"""TrainingJobs beside Kubernetes' own Job controller: what it makes of our Jobs when pods end, are lost or suspended.

The API server, the Job controller and the garbage collector are real. No kubelet runs: the tests say how a pod ends.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from testing.api_server import ApiServer
from testing.controller_manager import running_controllers
from testing.kubernetes_api import Manifest, condition_of
from testing.samples import dataset, prepared, trained, training_job
from testing.simulated_controllers import World
from testing.waiting import eventually

MAY_TAKE_SECONDS = 60.0
"""The Job controller waits some seconds before it replaces a pod that failed."""


@pytest.fixture(scope="module")
def controlled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """Give an API server with the Job controller, the garbage collector and our operator at work."""
    controllers = ["job-controller", "garbage-collector-controller"]
    with running_controllers(tmp_path_factory.mktemp("controlled"), controllers) as server:
        yield server


@pytest.fixture
def cluster(controlled: ApiServer) -> Iterator[World]:
    """Give a namespace with a prepared Dataset."""
    namespace = f"test-{secrets.token_hex(4)}"
    assert controlled.kubectl("create", "namespace", namespace).returncode == 0
    with controlled.http() as client:
        world = World(client, namespace)
        world.make_storage_secret()
        world.create(dataset())
        end(world, start(world, "flowers-prepare"), exit_code=0, message=prepared())
        world.wait_for_condition("datasets", "flowers", "Ready", "True")
        yield world


def pods_of(world: World, job: str) -> list[Manifest]:
    """The pods of a Job that have not ended."""
    pods = [p for p in world.list("pods") if p["metadata"]["labels"].get("batch.kubernetes.io/job-name") == job]
    return [p for p in pods if p["status"]["phase"] in ("Pending", "Running") and not gone(p)]


def gone(pod: Manifest) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def start(world: World, job: str) -> str:
    """Let the pod that the Job controller made run; return its name."""
    (pod,) = eventually(lambda: pods_of(world, job), f"a pod of {job}", seconds=MAY_TAKE_SECONDS)
    name: str = pod["metadata"]["name"]
    world.set_pod(name, {"phase": "Running"}, {"running": {}})
    return name


def end(world: World, pod: str, *, exit_code: int, message: Any = "") -> None:
    world.end_pod(pod, exit_code=exit_code, message=message)


def counts(world: World, name: str = "flowers") -> tuple[int, int]:
    """The restarts and the preemptions that the user sees."""
    status = world.wait_for("trainingjobs", name)["status"]
    return status.get("restarts", 0), status.get("preemptions", 0)


@pytest.mark.feature("T13")
def test_interrupted_pods_are_replaced_and_count_as_no_failure(cluster: World) -> None:
    """Pods end because they saved their state, lost a peer or were evicted."""
    # Side by side, as the Job controller waits ten seconds before it replaces a pod, and then twice as long.
    ends = {"saved": 143, "peer-lost": 75, "evicted": 137}
    for name in ends:
        cluster.create(training_job(name, backoffLimit=0))
    for name, exit_code in ends.items():
        pod = start(cluster, f"{name}-train")
        if name == "evicted":
            disrupted = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": ""}
            cluster.patch("pods", pod, {"status": {"conditions": [disrupted]}}, subresource="status")
        end(cluster, pod, exit_code=exit_code)
    for name in ends:
        end(cluster, start(cluster, f"{name}-train"), exit_code=0, message=trained() | {"starts": 2})
        cluster.wait_for_condition("trainingjobs", name, "Complete", "True", reason="Trained")
        assert counts(cluster, name) == (0, 1)


@pytest.mark.feature("T13")
def test_a_crash_is_retried_and_counted_until_the_backoff_limit(cluster: World) -> None:
    cluster.create(training_job(backoffLimit=1))
    end(cluster, start(cluster, "flowers-train"), exit_code=1, message="RuntimeError: out of memory")
    cluster.wait_for("trainingjobs", "flowers", lambda job: job["status"].get("restarts") == 1)
    end(cluster, start(cluster, "flowers-train"), exit_code=1, message="RuntimeError: out of memory")
    failed = cluster.wait_for_condition("trainingjobs", "flowers", "Failed", "True", reason="BackoffLimitExceeded")
    assert "out of memory" in failed["message"]


@pytest.mark.parametrize("exit_code", [2, 3])
def test_a_mistake_of_the_users_is_never_tried_again(cluster: World, exit_code: int) -> None:
    cluster.create(training_job(backoffLimit=3))
    error = {"error": {"reason": "TooFewClasses", "message": "Of class 'roses' there is no image."}}
    end(cluster, start(cluster, "flowers-train"), exit_code=exit_code, message=error)
    failed = cluster.wait_for_condition("trainingjobs", "flowers", "Failed", "True", reason="TooFewClasses")
    assert failed["message"] == "Of class 'roses' there is no image."
    assert pods_of(cluster, "flowers-train") == []


@pytest.mark.feature("T14")
def test_a_suspended_training_has_no_pods_until_it_is_resumed(cluster: World) -> None:
    cluster.create(training_job())
    start(cluster, "flowers-train")
    cluster.wait_for_condition("trainingjobs", "flowers", "Running", "True")
    cluster.patch("trainingjobs", "flowers", {"spec": {"suspend": True}})
    cluster.wait_for_condition("trainingjobs", "flowers", "Suspended", "True")
    eventually(lambda: not pods_of(cluster, "flowers-train"), "its pod is gone")
    assert cluster.wait_for("trainingjobs", "flowers")["status"]["phase"] == "Suspended"
    cluster.patch("trainingjobs", "flowers", {"spec": {"suspend": False}})
    end(cluster, start(cluster, "flowers-train"), exit_code=0, message=trained() | {"starts": 2})
    cluster.wait_for_condition("trainingjobs", "flowers", "Complete", "True", reason="Trained")
    assert counts(cluster) == (0, 1)


@pytest.mark.feature("T8")
@pytest.mark.feature("T14")
def test_a_stopped_suspended_training_gets_one_pod_for_its_model(cluster: World) -> None:
    """The pod publishes the model."""
    cluster.create(training_job())
    start(cluster, "flowers-train")
    cluster.wait_for_condition("trainingjobs", "flowers", "Running", "True")
    cluster.patch("trainingjobs", "flowers", {"spec": {"suspend": True}})
    eventually(lambda: not pods_of(cluster, "flowers-train"), "its pod is gone")
    cluster.patch("trainingjobs", "flowers", {"spec": {"stop": True}})
    end(cluster, start(cluster, "flowers-train"), exit_code=0, message=trained() | {"reason": "Stopped"})
    cluster.wait_for_condition("trainingjobs", "flowers", "Complete", "True", reason="Stopped")


@pytest.mark.feature("T14")
def test_a_queued_training_has_no_pods_until_kueue_admits_it(cluster: World) -> None:
    cluster.create(training_job(queue="team-a"))
    cluster.wait_for("jobs", "flowers-train", lambda job: condition_of(job, "Suspended"))
    assert pods_of(cluster, "flowers-train") == []
    cluster.patch("jobs", "flowers-train", {"spec": {"suspend": False}})
    end(cluster, start(cluster, "flowers-train"), exit_code=0, message=trained())
    cluster.wait_for_condition("trainingjobs", "flowers", "Complete", "True")


@pytest.mark.feature("T12")
def test_each_node_has_a_number_and_a_resolvable_name(cluster: World) -> None:
    cluster.create(training_job(nodes=2))
    eventually(lambda: len(pods_of(cluster, "flowers-train")) == 2, "two pods")
    pods = pods_of(cluster, "flowers-train")
    assert {pod["spec"]["hostname"] for pod in pods} == {"flowers-train-0", "flowers-train-1"}
    assert {pod["spec"]["subdomain"] for pod in pods} == {"flowers-train"}
    service = cluster.wait_for("services", "flowers-train")["spec"]
    assert all(service["selector"].items() <= pod["metadata"]["labels"].items() for pod in pods)
    for number, pod in enumerate(sorted(pods, key=lambda pod: str(pod["spec"]["hostname"]))):
        end(cluster, pod["metadata"]["name"], exit_code=0, message=trained() if number == 0 else {})
    cluster.wait_for_condition("trainingjobs", "flowers", "Complete", "True", reason="Trained")


@pytest.mark.feature("T8")
def test_a_training_stopped_before_it_began_leaves_nothing_behind(cluster: World) -> None:
    cluster.create(training_job())
    eventually(lambda: pods_of(cluster, "flowers-train"), "a pod that no node takes")
    cluster.patch("trainingjobs", "flowers", {"spec": {"stop": True}})
    cluster.wait_for_condition("trainingjobs", "flowers", "Failed", "True", reason="StoppedBeforeStart")
    cluster.wait_until_gone("jobs", "flowers-train")
    eventually(lambda: not pods_of(cluster, "flowers-train"), "its pod is gone")


@pytest.mark.feature("T16")
def test_remains_of_a_job_are_deleted_with_it_after_its_ttl(cluster: World) -> None:
    cluster.create(training_job(ttlSecondsAfterFinished=2, tensorboard=True))
    end(cluster, start(cluster, "flowers-train"), exit_code=0, message=trained())
    cluster.wait_until_gone("trainingjobs", "flowers")
    for plural, name in (
        ("jobs", "flowers-train"),
        ("secrets", "flowers-train"),
        ("deployments", "flowers-tensorboard"),
        ("services", "flowers-tensorboard"),
    ):
        cluster.wait_until_gone(plural, name)
