"""Requests to the API server: how many an InferenceService costs, and creations that take no other object's place."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from kubernetes.aio import client as kube
from prometheus_client import start_http_server

from bloomery_operator.cluster.client import KubernetesCluster
from bloomery_serving.identity import ModelIdentity
from bloomery_serving.metrics import Metrics
from testing.api_server import ApiServer
from testing.fault_proxy import PASS, Call, Fault, FaultProxy
from testing.kubernetes_api import Manifest, condition_of
from testing.operator_process import GATEWAY, OperatorProcess
from testing.samples import inference_service, variant
from testing.simulated_controllers import World
from testing.waiting import eventually
from tests.component.operator_fixtures import NewOperator

pytestmark = pytest.mark.feature("O4")

METRICS_PORT = 9090
DIGEST = "sha256:" + "d" * 64
POD = {"metadata": {"labels": {"app": "one"}}, "spec": {"containers": [{"name": "one", "image": "example/one:1"}]}}
NEW: dict[str, Manifest] = {
    "deployments": {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "spec": {"selector": {"matchLabels": {"app": "one"}}, "template": POD},
    },
    "services": {"apiVersion": "v1", "kind": "Service", "spec": {"ports": [{"port": 80}]}},
    "httproutes": {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "spec": {"parentRefs": [{"name": "gateway"}]},
    },
}


@pytest.fixture
def servers() -> Iterator[list[str]]:
    """Give the addresses of two model servers, which name the digest of their model."""
    with ExitStack() as stack:
        addresses = [f"127.{secrets.randbelow(200) + 20}.{secrets.randbelow(250)}.{number}" for number in (1, 2)]
        for address in addresses:
            metrics = Metrics(ModelIdentity(digest=DIGEST), service="model")
            server, thread = start_http_server(METRICS_PORT, address, metrics.registry)
            for close in (thread.join, server.server_close, server.shutdown):
                stack.callback(close)
        yield addresses


def test_a_service_of_two_variants_costs_few_requests(
    new_operator: NewOperator, world: World, fault_proxy: FaultProxy, servers: list[str], tmp_path: Path
) -> None:
    requests: list[Call] = []

    def record(call: Call) -> Fault:
        if not (call.is_watch or call.is_list):
            requests.append(call)
        return PASS

    environment = {"KUBECONFIG": str(fault_proxy.kubeconfig(tmp_path)), "BLOOMERY_NAMESPACES": world.namespace}
    # No other reads of the keys within the test.
    operator = new_operator(GATEWAY | environment | {"BLOOMERY_KEYS_SECONDS": "600"})
    operator.start()
    try:
        fault_proxy.faults = record
        world.create(inference_service(variants=[variant("v1", 90), variant("v2", 10)]))
        revisions = [world.revision("flowers", name) for name in ("v1", "v2")]
        for revision, address in zip(revisions, servers, strict=True):
            world.run_server(revision, ip=address)
            world.set_ready(revision, 1)
        world.wait_for_weights("flowers", {revisions[0]: 90, revisions[1]: 10})
        world.accept_route("flowers")
        world.wait_for_condition("inferenceservices", "flowers", "Ready", "True")
        eventually(fault_proxy.is_quiet, "nothing is written any more")
    finally:
        operator.end()
    counts = Counter(f"{call.method} {call.kind}" for call in requests)
    # A slow machine splits what usually comes together in 4 and 2: at most once for each step of the pods.
    assert counts.pop("PATCH inferenceservices/status") <= 10
    assert counts.pop("PATCH httproutes") <= 3
    assert counts == {
        "POST secrets": 3,
        "GET secrets": 1,
        "PATCH deployments": 2,
        "PATCH services": 2,
        "POST poddisruptionbudgets": 1,
        "GET replicasets": 2,
        "POST configmaps": 2,
        "PATCH backendtrafficpolicies": 1,
    }


def test_progress_of_starting_pods_is_shown_although_nothing_else_happens(
    own_operator: OperatorProcess, world: World
) -> None:
    own_operator.start()
    try:
        world.create(inference_service(variants=[variant("v1", 100)], replicas=3))
        shown = "Variant 'v1' has 0 of 3 pods ready."
        world.wait_for("inferenceservices", "flowers", lambda m: condition_of(m, "Ready").get("message") == shown)
    finally:
        own_operator.end()


@pytest.mark.parametrize("plural", ["deployments", "services", "httproutes"])
def test_a_creation_by_apply_leaves_an_object_of_its_name_alone(
    plural: str, gateway_api: ApiServer, world: World
) -> None:
    manifest = NEW[plural] | {"metadata": {"name": "one", "namespace": world.namespace}}

    async def apply_twice() -> tuple[Manifest | None, Manifest | None]:
        configuration = kube.Configuration(host=gateway_api.url, api_key={"BearerToken": f"Bearer {gateway_api.token}"})
        configuration.ssl_ca_cert = str(gateway_api.ca_file)
        async with kube.ApiClient(configuration) as api:
            cluster = KubernetesCluster(api)
            labelled = manifest | {"metadata": manifest["metadata"] | {"labels": {"a": "second"}}}
            return await cluster.apply_new(manifest), await cluster.apply_new(labelled)

    first, second = asyncio.run(apply_twice())
    assert first is not None
    assert [entry["operation"] for entry in first["metadata"]["managedFields"]] == ["Apply"]
    assert second is None
    live = world.get(plural, "one")
    assert live is not None
    assert live["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
