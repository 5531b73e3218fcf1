"""The operator itself: killed at any moment it loses nothing, idle it writes nothing, and it ends when asked."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.component.conftest import ApiServer
from tests.component.operator_fixtures import NewOperator
from tests.component.operator_harness import (
    GATEWAY,
    PATHS,
    OperatorProcess,
    World,
    condition_of,
    dataset,
    eventually,
    inference_service,
    prepared,
    running,
    trained,
    training_job,
    variant,
)

IDLE_SECONDS = 20.0


class Gatekeeper:
    """Stands between an operator and the API server, and holds the line after the operator's next write.

    So the operator can be killed at the worst of moments: what it asked for is done, and it does not know.
    """

    def __init__(self, client: httpx.Client, url: str) -> None:
        self.writes: list[str] = []
        self.held: list[str] = []
        self.struck = threading.Event()
        self._armed = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, client, url))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def arm(self) -> None:
        """Hold back the answer to the next write that changes something."""
        self.struck.clear()
        self._armed.set()

    def disarm(self) -> None:
        """Let everything pass."""
        self._armed.clear()

    def close(self) -> None:
        """End."""
        self._server.shutdown()
        self._server.server_close()

    def wrote(self, what: str, *, changed: bool) -> bool:
        """Take note of a write; return whether its answer is to be held back."""
        if not changed:
            return False
        self.writes.append(what)
        if not self._armed.is_set() or "/events" in what:
            return False
        self._armed.clear()
        self.held.append(what)
        self.struck.set()
        return True


def _handler(gatekeeper: Gatekeeper, client: httpx.Client, url: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _pass(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {k: v for k, v in self.headers.items() if k.lower() in ("accept", "content-type")}
            before = self._version() if self.command == "PATCH" else None
            with client.stream(self.command, url + self.path, content=body, headers=headers, timeout=None) as answer:
                if self.command == "GET":
                    self._answer(answer, answer.iter_bytes())
                    return
                answer.read()
            after = answer.json().get("metadata", {}).get("resourceVersion") if answer.is_success else before
            what = f"{self.command} {self.path.partition('?')[0]}"
            changed = answer.is_success and (self.command != "PATCH" or before != after)
            if gatekeeper.wrote(what, changed=changed):
                self.connection.recv(1)  # until the operator is dead
                return
            self._answer(answer, [answer.content])

        do_GET = do_POST = do_PATCH = do_DELETE = _pass

        def _version(self) -> str | None:
            path = self.path.partition("?")[0].removesuffix("/status")
            found = client.get(url + path)
            version: str | None = found.json()["metadata"]["resourceVersion"] if found.is_success else None
            return version

        def _answer(self, answer: httpx.Response, chunks: Iterable[bytes]) -> None:
            # Who was killed hears no answer any more.
            with suppress(OSError, httpx.HTTPError):
                self.send_response_only(answer.status_code)
                self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
                self.send_header("Connection", "close")
                self.end_headers()
                for chunk in chunks:
                    self.wfile.write(chunk)
                    self.wfile.flush()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


@pytest.fixture
def gatekeeper(apiserver: ApiServer) -> Iterator[Gatekeeper]:
    with apiserver.http() as client:
        gatekeeper = Gatekeeper(client, apiserver.url)
        yield gatekeeper
        gatekeeper.close()


@pytest.fixture
def watched_operator(
    new_operator: NewOperator, world: World, gatekeeper: Gatekeeper, tmp_path: Path
) -> OperatorProcess:
    """Give an operator for the test's namespace that reaches the API server through the gatekeeper only."""
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": {"server": gatekeeper.url}}],
                "users": [{"name": "u", "user": {"token": "unused"}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        )
    )
    environment = {"KUBECONFIG": str(kubeconfig), "BLOOMERY_NAMESPACES": world.namespace}
    return new_operator(GATEWAY | environment)


def test_killed_after_each_of_its_writes_it_ends_where_it_would_have(
    watched_operator: OperatorProcess, gatekeeper: Gatekeeper, world: World
) -> None:
    kubelet = _play(world)
    for manifest in (dataset(), training_job(), inference_service()):
        world.create(manifest)
    # One thing at a time: no other work goes on while an answer is held back.
    watched_operator.set("BLOOMERY_WORKERS", "1")
    deadline = time.monotonic() + 100
    while not _is_ready(world):
        assert time.monotonic() < deadline, watched_operator.log_text()[-3000:]
        gatekeeper.arm()
        watched_operator.start()
        while not gatekeeper.struck.wait(0.1) and not _is_ready(world):
            next(kubelet)
            assert time.monotonic() < deadline, watched_operator.log_text()[-3000:]
        watched_operator.kill()
        watched_operator.assert_calm()
    held = Counter(_kind_of_write(write) for write in gatekeeper.held)
    for kind, times in {
        "configmaps": 2,
        "jobs": 2,
        "secrets": 3,
        "deployments": 1,
        "services": 1,
        "httproutes": 1,
    }.items():
        assert held[kind] == times, gatekeeper.held
    for plural in ("datasets", "trainingjobs", "inferenceservices"):
        assert held[f"{plural}/status"] >= 2, gatekeeper.held
    assert [_kind_of_write(write) for write in gatekeeper.writes].count("jobs") == 2
    assert world.names("jobs") == {"flowers-prepare", "flowers-train"}
    assert world.names("deployments") == {world.revision("flowers", "v1")}
    assert len(world.wait_for("datasets", "flowers")["status"]["versions"]) == 1


def test_what_happened_while_the_operator_was_down_is_seen_when_it_is_back(
    own_operator: OperatorProcess, world: World
) -> None:
    world.create(dataset())
    own_operator.start()
    world.wait_for("jobs", "flowers-prepare")
    own_operator.kill()
    world.succeed("flowers-prepare", prepared())
    world.create(training_job())
    with running(own_operator):
        world.wait_for_condition("datasets", "flowers", "Ready", "True")
        world.wait_for("jobs", "flowers-train")


def test_a_job_that_ended_while_the_operator_was_down_does_not_run_again(
    own_operator: OperatorProcess, world: World
) -> None:
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
    watched_operator: OperatorProcess, gatekeeper: Gatekeeper, world: World
) -> None:
    kubelet = _play(world)
    watched_operator.set("BLOOMERY_RESYNC_SECONDS", "2")
    for manifest in (dataset(), training_job(), inference_service()):
        world.create(manifest)
    world.create(dataset("waiting", source={"uri": "s3://tulips/raw", "secretRef": {"name": "missing"}}))
    world.create(training_job("waiting", datasets=[{"name": "missing"}]))
    world.create(inference_service("waiting", variants=[variant("v1", 50), variant("v2", 50)]))
    with running(watched_operator):
        eventually(lambda: next(kubelet) or _is_ready(world), "all are ready")
        world.wait_for_condition("inferenceservices", "waiting", "Ready", "False")
        eventually(lambda: _settled(gatekeeper), "nothing is written any more")
        before, writes = _versions(world), len(gatekeeper.writes)
        time.sleep(IDLE_SECONDS)
        assert gatekeeper.writes[writes:] == []
        assert _versions(world) == before
        assert 'bloomery_reconcile_total{kind="Dataset",result="success"}' in watched_operator.metrics()
        assert watched_operator.health().status_code == 200


def test_it_ends_at_once_when_asked(own_operator: OperatorProcess) -> None:
    own_operator.start()
    since = time.monotonic()
    assert own_operator.stop() == 0
    assert time.monotonic() - since < 3
    own_operator.assert_calm()


def test_without_a_gateway_one_variant_is_served_at_its_service_and_several_are_refused_in_words(
    new_operator: NewOperator, world: World
) -> None:
    with running(new_operator({"BLOOMERY_NAMESPACES": world.namespace})):
        world.create(inference_service("one", variants=[variant("v1", 100)]))
        revision = world.revision("one", "v1")
        world.set_ready(revision, 1)
        world.wait_for_condition("inferenceservices", "one", "Ready", "True")
        url = world.wait_for("inferenceservices", "one")["status"]["url"]
        assert url == f"http://{revision}.{world.namespace}.svc"
        world.create(inference_service("two", variants=[variant("v1", 50), variant("v2", 50)]))
        for name in ("v1", "v2"):
            world.set_ready(world.revision("two", name), 1)
        world.wait_for_condition("inferenceservices", "two", "Ready", "False", reason="GatewayRequired")
        assert world.names("httproutes") == set()


def test_an_environment_that_is_not_right_is_answered_in_a_sentence(new_operator: NewOperator) -> None:
    operator = new_operator({"BLOOMERY_WORKERS": "many"})
    assert operator.run_to_its_end() == 2
    assert re.search(r"BLOOMERY_WORKERS: .*integer", operator.log_text())
    assert "Traceback" not in operator.log_text()


def test_an_api_server_that_is_not_there_is_answered_in_a_sentence(new_operator: NewOperator, tmp_path: Path) -> None:
    operator = new_operator({"KUBECONFIG": str(tmp_path / "none")})
    assert operator.run_to_its_end() == 1
    assert "the operator can not start" in operator.log_text()
    assert "Traceback" not in operator.log_text()


def _play(world: World) -> Iterator[None]:
    """Be the Job controller, the kubelet and the gateway: look once at each turn, and let everything go well."""
    while True:
        for job, result in (("flowers-prepare", prepared()), ("flowers-train", trained())):
            found = world.get("jobs", job)
            if found is not None and not found.get("status", {}).get("completionTime"):
                world.succeed(job, result)
        for name in world.deployments_of("flowers", "v1"):
            deployment = world.get("deployments", name)
            if deployment is not None and not deployment.get("status", {}).get("readyReplicas"):
                world.set_ready(name, 1)
        route = world.get("httproutes", "flowers")
        if route is not None and not route.get("status", {}).get("parents"):
            world.accept_route("flowers")
        yield


def _kind_of_write(write: str) -> str:
    """Return ``jobs``, or for a status ``datasets/status``."""
    plural, *rest = write.partition("/namespaces/")[2].split("/")[1:]
    return f"{plural}/status" if rest[1:] == ["status"] else plural


def _is_ready(world: World) -> bool:
    ready = condition_of(world.get("inferenceservices", "flowers"), "Ready").get("status") == "True"
    complete = condition_of(world.get("trainingjobs", "flowers"), "Complete").get("status") == "True"
    prepared_ = condition_of(world.get("datasets", "flowers"), "Ready").get("status") == "True"
    return ready and complete and prepared_


def _settled(gatekeeper: Gatekeeper) -> bool:
    count = len(gatekeeper.writes)
    time.sleep(3)
    return len(gatekeeper.writes) == count


def _versions(world: World) -> dict[tuple[str, str], str]:
    return {
        (plural, item["metadata"]["name"]): item["metadata"]["resourceVersion"]
        for plural in PATHS
        for item in world.list(plural)
    }
