"""Namespaces that do not trust each other share a cluster, a gateway and an operator."""

from __future__ import annotations

import json
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from testing.api_server import ApiServer
from testing.kubernetes_api import Manifest, condition_of
from testing.operator_process import GATEWAY, OperatorProcess, running
from testing.samples import dataset, inference_service, prepared, training_job, variant
from testing.simulated_controllers import PROGRESS_PORT, World, config_of
from testing.waiting import eventually
from tests.component.operator_fixtures import NewOperator

pytestmark = pytest.mark.feature("O7")

METRICS_PORT = 9090


@pytest.fixture
def neighbour(gateway_api: ApiServer, world: World) -> Iterator[World]:
    """Give a second namespace, with a storage Secret of its own."""
    name = f"test-{secrets.token_hex(4)}"
    done = gateway_api.kubectl("create", "namespace", name)
    assert done.returncode == 0, done.stderr
    with gateway_api.http() as client:
        neighbour = World(client, name)
        neighbour.make_storage_secret()
        yield neighbour


@pytest.fixture
def two_tenants(new_operator: NewOperator, world: World, neighbour: World) -> OperatorProcess:
    """Give an operator for the two namespaces, not started yet."""
    return new_operator(GATEWAY | {"BLOOMERY_NAMESPACES": f"{world.namespace},{neighbour.namespace}"})


def serve(world: World, name: str = "flowers", **spec: Any) -> str:
    """Make a service with a ready pod; return its revision."""
    world.create(inference_service(name, variants=[variant("v1", 100)], **spec))
    revision = world.revision(name, "v1")
    world.set_ready(revision, 1)
    return revision


def routed_paths(world: World, name: str) -> set[str]:
    """Return the paths of a service's route."""
    route = world.get("httproutes", name)
    rules = route["spec"]["rules"] if route else []
    return {match["path"]["value"] for rule in rules for match in rule["matches"]}


# Paths on the gateway.


def test_no_namespace_takes_a_path_of_another(world: World, neighbour: World, two_tenants: OperatorProcess) -> None:
    with running(two_tenants):
        serve(world, "old")
        world.wait_for("httproutes", "old")
        serve(neighbour)
        route = neighbour.wait_for("httproutes", "flowers")
        # An editor of the first namespace, whose service is older, asks for paths of the second.
        for path in (f"/{neighbour.namespace}", f"/{neighbour.namespace}/flowers", f"/{neighbour.namespace}/flowers/x"):
            world.patch("inferenceservices", "old", {"spec": {"path": path}})
            refused = world.wait_for_condition(
                "inferenceservices", "old", "RouteReady", "False", reason="PathNotAllowed"
            )
            world.wait_until_gone("httproutes", "old")
            assert f"below '/{world.namespace}/'" in refused["message"]
            world.patch("inferenceservices", "old", {"spec": {"path": None}})
            world.wait_for("httproutes", "old")
        # A squatter gets nothing either, and the service that the path belongs to comes later.
        serve(world, "squatter", path=f"/{neighbour.namespace}/new")
        world.wait_for_condition("inferenceservices", "squatter", "RouteReady", "False", reason="PathNotAllowed")
        serve(neighbour, "new")
        neighbour.wait_for("httproutes", "new")
        assert world.get("httproutes", "squatter") is None
        assert neighbour.wait_for("httproutes", "flowers")["metadata"]["uid"] == route["metadata"]["uid"]


def test_a_granted_prefix_belongs_to_one_namespace(
    world: World, neighbour: World, two_tenants: OperatorProcess
) -> None:
    prefix = f"/shop-{secrets.token_hex(4)}"
    two_tenants.set("BLOOMERY_PATH_PREFIXES", json.dumps({world.namespace: [prefix]}))
    with running(two_tenants):
        serve(world, path=f"{prefix}/flowers")
        world.wait_for("httproutes", "flowers")
        assert routed_paths(world, "flowers") == {f"{prefix}/flowers"}
        for number, path in enumerate((prefix, f"{prefix}/flowers/x", f"{prefix}ping", "/login")):
            neighbour.create(inference_service(f"taken{number}", path=path, variants=[variant("v1", 100)]))
            neighbour.wait_for_condition(
                "inferenceservices", f"taken{number}", "RouteReady", "False", reason="PathNotAllowed"
            )
        assert routed_paths(world, "flowers") == {f"{prefix}/flowers"}


def test_a_route_from_before_the_prefixes_stays_with_a_warning(
    world: World, neighbour: World, two_tenants: OperatorProcess
) -> None:
    """A version without prefixes made such routes; a grant that is taken back leaves the same."""
    old_paths = [f"/{neighbour.namespace}/flowers", "/shop"]
    two_tenants.set("BLOOMERY_PATH_PREFIXES", json.dumps({world.namespace: old_paths}))
    with running(two_tenants):
        revision = serve(world, "shop", path="/shop")
        serve(world, "squatter", path=f"/{neighbour.namespace}/flowers")
        for name in ("shop", "squatter"):
            world.wait_for("httproutes", name)
    two_tenants.set("BLOOMERY_PATH_PREFIXES", "{}")
    with running(two_tenants):
        world.accept_route("shop")
        condition = world.wait_for_condition("inferenceservices", "shop", "RouteReady", "True", reason="PathNotAllowed")
        assert condition["message"].startswith("The gateway routes /shop, which does not belong to namespace")
        # The service goes on as before: it changes its model.
        another = [variant("v1", 100, model="s3://models/another")]
        world.patch("inferenceservices", "shop", {"spec": {"variants": another}})
        (new,) = eventually(lambda: set(world.deployments_of("shop", "v1")) - {revision}, "a second revision")
        world.set_ready(new, 1)
        world.wait_for_weights("shop", {new: 100})
        # The owner of the path learns that its requests and keys would go elsewhere, and gets no address.
        serve(neighbour)
        taken = neighbour.wait_for_condition("inferenceservices", "flowers", "RouteReady", "False", reason="PathTaken")
        assert "a service of another namespace" in taken["message"]
        neighbour_service = neighbour.get("inferenceservices", "flowers")
        assert neighbour_service is not None and "url" not in neighbour_service["status"]
        # Once it moves, it cannot come back.
        world.patch("inferenceservices", "squatter", {"spec": {"path": None}})
        neighbour.wait_for("httproutes", "flowers")
        world.patch("inferenceservices", "squatter", {"spec": {"path": f"/{neighbour.namespace}/flowers"}})
        world.wait_for_condition("inferenceservices", "squatter", "RouteReady", "False", reason="PathNotAllowed")
        assert neighbour.get("httproutes", "flowers") is not None


def test_an_operator_with_overlapping_prefixes_does_not_start(two_tenants: OperatorProcess) -> None:
    two_tenants.set("BLOOMERY_PATH_PREFIXES", json.dumps({"a": ["/shop"], "b": ["/shop/all"]}))
    assert two_tenants.run_to_its_end() == 2
    assert "'/shop' and '/shop/all' overlap" in two_tenants.log_text()


# MLflow.


class FakeMlflow:
    """An MLflow with one model version at its alias; counts the requests."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.uri = ""

    @contextmanager
    def serving(self) -> Iterator[None]:
        tags = [{"key": "bloomery.dev/uri", "value": "s3://models/1"}]
        document = {"model_version": {"name": "flowers", "version": "1", "tags": tags}}

        def answer(request: BaseHTTPRequestHandler) -> None:
            self.requests.append(request.path)
            respond(request, 200, json.dumps(document))

        with serving("127.0.0.1", 0, answer) as port:
            self.uri = f"http://127.0.0.1:{port}"
            yield


def respond(request: BaseHTTPRequestHandler, status: int, text: str) -> None:
    body = text.encode()
    request.send_response(status)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)


@contextmanager
def serving(host: str, port: int, answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[int]:
    """Answer HTTP requests from threads; give the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        do_POST = do_DELETE = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer((host, port), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def mlflows() -> Iterator[tuple[FakeMlflow, FakeMlflow]]:
    """Give two MLflow servers."""
    listed, other = FakeMlflow(), FakeMlflow()
    with listed.serving(), other.serving():
        yield listed, other


def followed() -> list[Manifest]:
    return [variant("v1", 100) | {"model": {"mlflow": "models:/flowers@champion", "update": "Follow"}}]


def test_only_listed_mlflows_are_contacted_and_what_is_deployed_stays(
    ready_world_of: Callable[[OperatorProcess], World],
    own_operator: OperatorProcess,
    mlflows: tuple[FakeMlflow, FakeMlflow],
) -> None:
    listed, other = mlflows
    own_operator.set("BLOOMERY_MLFLOW_ADDRESSES", f"https://mlflow.example.com,{listed.uri}")
    own_operator.set("BLOOMERY_REGISTRY_SECONDS", "1")
    with running(own_operator):
        world = ready_world_of(own_operator)
        world.use_mlflow(f"{listed.uri}/")
        world.create(inference_service(variants=followed()))
        revision = world.revision("flowers", "v1")
        world.set_ready(revision, 1)
        world.wait_for_weights("flowers", {revision: 100})
        # The tag's annotation gives the Deployment a new generation, which its controller would take note of.
        world.wait_for("deployments", revision, lambda d: "bloomery.dev/served-tag" in d["metadata"]["annotations"])
        world.set_ready(revision, 1)

        for address in (other.uri, f"{other.uri}/admin?id=1#", listed.uri.replace("http://", "http://user:pass@")):
            world.use_mlflow(address)
            ready = world.wait_for_condition(
                "inferenceservices", "flowers", "VariantsReady", "True", reason="MLflowNotAllowed"
            )
            assert other.uri not in ready["message"] and "pass@" not in ready["message"]
            world.use_mlflow(listed.uri)
            world.wait_for_condition("inferenceservices", "flowers", "VariantsReady", "True", reason="AllReady")
        world.use_mlflow(other.uri)
        world.patch("inferenceservices", "flowers", {"spec": {"replicas": 2}})
        world.wait_for("deployments", revision, lambda d: d["spec"]["replicas"] == 2)
        assert world.weights("flowers") == {revision: 100}
        # A new object that needs the registry waits, and says why.
        world.create(inference_service("second", variants=followed()))
        world.wait_for_condition("inferenceservices", "second", "Ready", "False", reason="MLflowNotAllowed")
        world.create(training_job("tuned", initialModel={"mlflow": "models:/flowers/1"}))
        world.wait_for_condition("trainingjobs", "tuned", "Running", "False", reason="MLflowNotAllowed")
    assert other.requests == []
    assert listed.requests


@pytest.fixture
def ready_world_of(world: World) -> Callable[[OperatorProcess], World]:
    """Give a function that prepares a Dataset, once an operator runs."""

    def prepare(_: OperatorProcess) -> World:
        world.create(dataset())
        world.succeed("flowers-prepare", prepared())
        world.wait_for_condition("datasets", "flowers", "Ready", "True")
        return world

    return prepare


# Names of models.


def test_models_are_registered_under_the_name_of_their_namespace(
    world: World, neighbour: World, two_tenants: OperatorProcess
) -> None:
    def registered(where: World, job: str) -> str:
        name: str = config_of(where, f"{job}-train")["mlflow"]["registeredModel"]
        return name

    with running(two_tenants):
        for where in (world, neighbour):
            where.create(dataset())
            where.succeed("flowers-prepare", prepared())
            where.create(training_job())
        assert {registered(where, "flowers") for where in (world, neighbour)} == {
            f"{world.namespace}.flowers",
            f"{neighbour.namespace}.flowers",
        }
        for job, name in (("first", "snacks"), ("second", f"{world.namespace}.snacks"), ("third", "resnet.v2")):
            world.create(training_job(job, output={"registeredModel": name}))
            assert registered(world, job) == f"{world.namespace}.{name.removeprefix(f'{world.namespace}.')}"
        world.create(training_job("stolen", output={"registeredModel": f"{neighbour.namespace}.flowers"}))
        refused = world.wait_for_condition("trainingjobs", "stolen", "Running", "False", reason="ModelNameNotAllowed")
        assert f"'{world.namespace}.NAME'" in refused["message"]
        assert world.get("jobs", "stolen-train") is None


def test_a_job_keeps_the_name_that_it_began_with(
    ready_world_of: Callable[[OperatorProcess], World], own_operator: OperatorProcess
) -> None:
    own_operator.set("BLOOMERY_MODEL_NAMES", "Plain")
    with running(own_operator):
        world = ready_world_of(own_operator)
        world.create(training_job())
        before = config_of(world, "flowers-train")
        assert before["mlflow"]["registeredModel"] == "flowers"
    own_operator.set("BLOOMERY_MODEL_NAMES", "Namespaced")
    with running(own_operator):
        not_registered = {"model": {"name": "flowers", "version": None, "uri": "s3://a/model", "digest": "sha256:a"}}
        world.succeed("flowers-train", {**not_registered, "metrics": {"top1": 0.9}, "reason": "NotRegistered"})
        world.wait_for_condition("trainingjobs", "flowers", "Complete", "True", reason="NotRegistered")
        assert config_of(world, "flowers-register") == before
        assert config_of(world, "flowers-train") == before


# Pods and servers of a namespace.


def metrics_of(requests: list[str], *, digest: str) -> Callable[[BaseHTTPRequestHandler], None]:
    """Return a handler that counts requests, and answers as a model server does."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        requests.append(request.path)
        respond(request, 200, f'bloomery_model_info{{digest="{digest}",run_id="r"}} 1\n')

    return answer


def test_a_pod_with_the_labels_of_a_server_is_not_asked(world: World, own_operator: OperatorProcess) -> None:
    own, forged = (f"127.{secrets.randbelow(200) + 20}.{secrets.randbelow(250)}.{last}" for last in (1, 2))
    requests: dict[str, list[str]] = {own: [], forged: []}
    digests = {own: "sha256:" + "a" * 64, forged: "sha256:" + "f" * 64}
    with (
        serving(own, METRICS_PORT, metrics_of(requests[own], digest=digests[own])),
        serving(forged, METRICS_PORT, metrics_of(requests[forged], digest=digests[forged])),
        running(own_operator),
    ):
        revision = serve(world)
        template = world.wait_for("deployments", revision)["spec"]["template"]
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
        labels = template["metadata"]["labels"]
        # Its name comes first, and it is ready before the own pod is there.
        metadata = {"name": "a0", "labels": labels}
        world.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
        status = {"phase": "Running", "podIP": forged, "podIPs": [{"ip": forged}], "conditions": [ready]}
        world.patch("pods", "a0", {"status": status}, subresource="status")
        world.run_server(revision, ip=own)
        service = world.wait_for(
            "inferenceservices", "flowers", lambda m: m["status"]["variants"][0].get("digest") is not None
        )
    assert service["status"]["variants"][0]["digest"] == digests[own]
    assert requests[own] and not requests[forged]


@contextmanager
def silent_server(port: int) -> Iterator[str]:
    """Accept connections at an address of this machine, and never answer; give the address."""
    address = f"127.{secrets.randbelow(200) + 20}.{secrets.randbelow(250)}.3"
    with socket.create_server((address, port), backlog=4096):
        yield address


def test_trainers_that_do_not_answer_delay_no_other_namespace(
    world: World, neighbour: World, two_tenants: OperatorProcess
) -> None:
    """Their requests occupy no worker: with one worker, twenty of them would take 40 seconds a round."""
    two_tenants.set("BLOOMERY_WORKERS", "1")
    with silent_server(PROGRESS_PORT) as address, running(two_tenants):
        for number in range(20):
            name = f"raw{number}"
            world.create(dataset(name))
            world.start_pod(f"{name}-prepare", ip=address)
        world.wait_for_condition("datasets", "raw19", "Ready", "False", reason="Preparing")
        seconds = []
        for number in range(3):
            start = time.monotonic()
            serve(neighbour, f"shop{number}")
            neighbour.wait_for("httproutes", f"shop{number}")
            seconds.append(time.monotonic() - start)
        assert max(seconds) < 5, seconds


def test_a_large_answer_of_mlflow_reaches_no_condition(
    world: World, neighbour: World, two_tenants: OperatorProcess
) -> None:
    """Nor does it stop the operator."""
    version = {"name": "a", "version": 1, "tags": [{"key": ""}] * 300_000}
    texts: Mapping[str, str] = {
        "too long": json.dumps({"model_version": version}),
        "a banner": json.dumps({"message": "SSH-2.0-OpenSSH_9.6 internal-host-7"}),
    }
    current = "too long"

    def answer(request: BaseHTTPRequestHandler) -> None:
        respond(request, 200 if current == "too long" else 500, texts[current])

    with serving("127.0.0.1", 0, answer) as port:
        address = f"http://127.0.0.1:{port}"
        two_tenants.set("BLOOMERY_MLFLOW_ADDRESSES", address)
        two_tenants.set("BLOOMERY_REGISTRY_SECONDS", "1")
        with running(two_tenants):
            world.use_mlflow(address)
            world.create(inference_service(variants=followed()))
            world.wait_for(
                "inferenceservices",
                "flowers",
                lambda m: "longer than 262144 bytes" in condition_of(m, "Ready").get("message", ""),
            )
            current = "a banner"
            failed = world.wait_for(
                "inferenceservices",
                "flowers",
                lambda m: condition_of(m, "Ready").get("message", "").endswith("status 500"),
            )
            assert "SSH" not in json.dumps(failed["status"])
            serve(neighbour)
            neighbour.wait_for("httproutes", "flowers")
