"""Pods that a quota refuses, beside Kubernetes' own controllers and quotas."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from testing.api_server import ApiServer
from testing.controller_manager import running_controllers
from testing.kubernetes_api import Manifest, condition_of
from testing.samples import dataset, inference_service, prepared, training_job, variant
from testing.simulated_controllers import World
from testing.waiting import eventually

pytestmark = pytest.mark.feature("O6")

MAY_TAKE_SECONDS = 60.0
"""The Job controller waits longer before each attempt to create a pod."""
QUOTA = "must specify limits.cpu for: "
LIMITED = {"limits": {"cpu": "1", "memory": "1Gi"}}


@pytest.fixture(scope="module")
def controlled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """Give an API server with the controllers that create pods, that of quotas, and our operator."""
    controllers = ["job-controller", "deployment-controller", "replicaset-controller", "resourcequota-controller"]
    with running_controllers(tmp_path_factory.mktemp("controlled"), controllers) as server:
        yield server


@pytest.fixture
def cluster(controlled: ApiServer) -> Iterator[World]:
    """Give a namespace with a quota of processors, so that each container has to name a limit of them."""
    namespace = f"test-{secrets.token_hex(4)}"
    assert controlled.kubectl("create", "namespace", namespace).returncode == 0
    assert controlled.kubectl("create", "quota", "cpus", "--hard=limits.cpu=8", "-n", namespace).returncode == 0
    quota = lambda: controlled.kubectl("get", "quota/cpus", "-ojsonpath={.status.hard}", "-n", namespace).stdout  # noqa: E731
    eventually(quota, "the quota is counted", seconds=MAY_TAKE_SECONDS)
    with controlled.http() as client:
        world = World(client, namespace)
        world.make_storage_secret()
        yield world


def wait_for_refusal(world: World, plural: str, type_: str, container: str) -> Manifest:
    """Wait until an object's condition has the controller's sentence; return the object."""

    def is_refused(item: Manifest) -> bool:
        condition = condition_of(item, type_)
        return condition.get("reason") == "Refused" and f"{QUOTA}{container}" in condition["message"]

    def met() -> Manifest | None:
        item = world.get(plural, "flowers")
        return item if item is not None and is_refused(item) else None

    return eventually(met, lambda: f"{type_} of {world.get(plural, 'flowers')}", seconds=MAY_TAKE_SECONDS)


def test_quota_that_refuses_a_preparation_is_shown_until_its_pod_runs(cluster: World) -> None:
    cluster.create(dataset())
    refused = wait_for_refusal(cluster, "datasets", "Ready", "trainer")
    assert refused["status"]["phase"] == "Pending"
    cluster.patch("datasets", "flowers", {"spec": {"resources": LIMITED}})
    eventually(lambda: cluster.list("pods"), "a pod", seconds=MAY_TAKE_SECONDS)
    (pod,) = cluster.list("pods")
    cluster.set_pod(pod["metadata"]["name"], {"phase": "Running"}, {"running": {}})
    cluster.wait_for_condition("datasets", "flowers", "Ready", "False", reason="Preparing")


def test_quota_that_refuses_a_training_and_its_tensorboard_is_shown(cluster: World) -> None:
    cluster.create(dataset(resources=LIMITED))
    (pod,) = eventually(lambda: cluster.list("pods"), "a pod", seconds=MAY_TAKE_SECONDS)
    cluster.end_pod(pod["metadata"]["name"], exit_code=0, message=prepared())
    cluster.wait_for_condition("datasets", "flowers", "Ready", "True")
    cluster.create(training_job(tensorboard=True))
    wait_for_refusal(cluster, "trainingjobs", "Running", "trainer")
    wait_for_refusal(cluster, "trainingjobs", "TensorBoardReady", "tensorboard")


def test_quota_that_refuses_server_pods_is_shown_until_they_exist(cluster: World) -> None:
    cluster.create(inference_service(variants=[variant("v1", 100)]))
    wait_for_refusal(cluster, "inferenceservices", "VariantsReady", "server")
    limited = [variant("v1", 100, resources=LIMITED)]
    cluster.patch("inferenceservices", "flowers", {"spec": {"variants": limited}})
    eventually(lambda: cluster.list("pods"), "a pod", seconds=MAY_TAKE_SECONDS)
    cluster.wait_for_condition("inferenceservices", "flowers", "VariantsReady", "False", reason="Deploying")
