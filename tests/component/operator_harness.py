"""What the operator's component tests stand on: the operator as a process, and the hands that play the rest.

The API server is real, and so are all objects. No Job controller, no kubelet and no gateway run here: ``World``
writes what they would write, so that a test decides when a pod succeeds and with which words.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

Manifest = dict[str, Any]
T = TypeVar("T")

SOURCES = Path(__file__).resolve().parents[2] / "operator" / "src"
PATIENCE_SECONDS = 20.0
PROGRESS_PORT = 8089
GATEWAY = {"BLOOMERY_GATEWAY_NAME": "bloomery", "BLOOMERY_GATEWAY_NAMESPACE": "gateways"}
STORE = "s3://bloomery"

PATHS = {
    "datasets": "apis/bloomery.dev/v1alpha1",
    "trainingjobs": "apis/bloomery.dev/v1alpha1",
    "inferenceservices": "apis/bloomery.dev/v1alpha1",
    "jobs": "apis/batch/v1",
    "deployments": "apis/apps/v1",
    "horizontalpodautoscalers": "apis/autoscaling/v2",
    "poddisruptionbudgets": "apis/policy/v1",
    "httproutes": "apis/gateway.networking.k8s.io/v1",
    "backendtrafficpolicies": "apis/gateway.envoyproxy.io/v1alpha1",
    "pods": "api/v1",
    "configmaps": "api/v1",
    "secrets": "api/v1",
    "services": "api/v1",
    "events": "api/v1",
}


class Gone(AssertionError):
    """An object is not there, or not any more."""


class OperatorProcess:
    """``python -m bloomery_operator``, which a test can kill and start again."""

    def __init__(self, *, kubeconfig: Path, log: Path, environment: Mapping[str, str]) -> None:
        self.log = log
        self.health_port, self.metrics_port = free_port(), free_port()
        self._environment = {
            "PATH": os.environ["PATH"],
            # The operator of these very files, wherever another one is installed.
            "PYTHONPATH": str(SOURCES),
            "HOME": str(log.parent),
            "KUBECONFIG": str(kubeconfig),
            "BLOOMERY_TRAINER_IMAGE": "example/trainer:1",
            "BLOOMERY_SERVING_IMAGE": "example/serving:1",
            "BLOOMERY_GATEWAY_PUBLIC_URL": "http://gateway.example",
            "BLOOMERY_MLFLOW_PUBLIC_URL": "http://mlflow.example",
            "BLOOMERY_LOG_FORMAT": "text",
            "BLOOMERY_PROGRESS_SECONDS": "0.5",
            "BLOOMERY_OBSTACLE_SECONDS": "1",
            "BLOOMERY_KEYS_SECONDS": "2",
            "BLOOMERY_HEALTH_PORT": str(self.health_port),
            "BLOOMERY_METRICS_PORT": str(self.metrics_port),
            **environment,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, until: str = "starting to reconcile") -> None:
        """Start it and wait until it says that it reconciles, or something else."""
        before = self.log_text().count(until)
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bloomery_operator"], env=self._environment, stdout=output, stderr=output
            )
        eventually(lambda: self.log_text().count(until) > before, f"the operator says {until!r}")

    def set(self, name: str, value: str) -> None:
        """Set an environment variable for the next start."""
        self._environment[name] = value

    def run_to_its_end(self) -> int:
        """Run it where it is to end by itself; return its exit code."""
        with self.log.open("ab") as output:
            command = [sys.executable, "-m", "bloomery_operator"]
            done = subprocess.run(command, env=self._environment, stdout=output, stderr=output, timeout=30, check=False)
        return done.returncode

    def kill(self) -> None:
        """End it as a node failure would: at once, wherever it is."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(timeout=10)

    def freeze(self) -> None:
        """Let it stand still, as a machine does that is suspended."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def wait(self, *, seconds: float = PATIENCE_SECONDS) -> int:
        """Wait until it ends by itself; return its exit code."""
        assert self._process is not None
        return self._process.wait(timeout=seconds)

    def end(self) -> None:
        """End it, whatever it does, if it still runs."""
        if self._process is not None and self._process.poll() is None:
            self.kill()

    def stop(self) -> int:
        """Ask it to end; return its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(timeout=15)
        finally:
            self._process.kill()

    def log_text(self) -> str:
        """All that it has said so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def metrics(self) -> str:
        """Its own metrics."""
        return httpx.get(f"http://127.0.0.1:{self.metrics_port}/metrics").text

    def health(self) -> httpx.Response:
        """Its liveness."""
        return httpx.get(f"http://127.0.0.1:{self.health_port}/healthz")

    def assert_calm(self) -> None:
        """Fail if it said anything that should not be said."""
        text = self.log_text()
        for alarm in ("Traceback", "ERROR", "failed and is tried again", "never awaited", "never retrieved"):
            assert alarm not in text, text[-6000:]


class World:
    """One namespace of the API server, and the controllers and kubelets that are not there."""

    def __init__(self, client: httpx.Client, namespace: str) -> None:
        self.client = client
        self.namespace = namespace

    def get(self, plural: str, name: str) -> Manifest | None:
        """Return one object."""
        response = self.client.get(self._path(plural, name))
        return None if response.status_code == 404 else checked(response)

    def list(self, plural: str) -> list[Manifest]:
        """Return all objects of a kind."""
        items: list[Manifest] = checked(self.client.get(self._path(plural)))["items"]
        return items

    def names(self, plural: str) -> set[str]:
        """Return the names of all objects of a kind."""
        return {item["metadata"]["name"] for item in self.list(plural)}

    def create(self, manifest: Manifest) -> Manifest:
        """Create an object in the namespace."""
        plural = next(p for p in PATHS if p == f"{manifest['kind'].lower()}s")
        metadata = {"namespace": self.namespace} | manifest["metadata"]
        return checked(self.client.post(self._path(plural), json=manifest | {"metadata": metadata}))

    def patch(self, plural: str, name: str, change: Manifest, *, subresource: str = "") -> Manifest:
        """Merge-patch an object."""
        path = self._path(plural, name) + (f"/{subresource}" if subresource else "")
        headers = {"Content-Type": "application/merge-patch+json"}
        return checked(self.client.patch(path, content=json.dumps(change), headers=headers))

    def delete(self, plural: str, name: str) -> None:
        """Delete an object; what it owned stays, as no garbage collector runs."""
        body = {"propagationPolicy": "Background", "gracePeriodSeconds": 0}
        checked(self.client.request("DELETE", self._path(plural, name), json=body))

    def begin_deletion(self, plural: str, name: str) -> None:
        """Ask for the deletion of a pod whose kubelet does not answer."""
        body = {"propagationPolicy": "Background", "gracePeriodSeconds": 300}
        checked(self.client.request("DELETE", self._path(plural, name), json=body))

    def wait_for(self, plural: str, name: str, condition: Callable[[Manifest], object] = bool) -> Manifest:
        """Wait until an object is there and meets the condition; return it."""
        last: Manifest | None = None

        def met() -> Manifest | None:
            nonlocal last
            last = self.get(plural, name)
            return last if last is not None and condition(last) else None

        return eventually(met, lambda: f"{plural} {name} as wanted; it is {json.dumps(last, indent=1)}")

    def wait_until_gone(self, plural: str, name: str) -> None:
        """Wait until an object is deleted."""
        eventually(lambda: self.get(plural, name) is None, f"{plural} {name} is gone")

    def wait_for_condition(
        self, plural: str, name: str, type_: str, status: str, *, reason: str | None = None
    ) -> Manifest:
        """Wait until an object's condition is as wanted; return the condition."""

        def met(manifest: Manifest) -> bool:
            found = condition_of(manifest, type_)
            return bool(found) and found["status"] == status and reason in (None, found["reason"])

        return condition_of(self.wait_for(plural, name, met), type_)

    def make_storage_secret(self) -> None:
        """Make the credentials that pods read."""
        self.create({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bloomery-storage"}, "data": {}})

    def use_mlflow(self, uri: str) -> None:
        """Name the MLflow server that the namespace uses."""
        value = base64.b64encode(uri.encode()).decode()
        self.patch("secrets", "bloomery-storage", {"data": {"MLFLOW_TRACKING_URI": value}})

    # The Job controller and the kubelet.

    def start_pod(self, job_name: str, *, ip: str | None = None) -> str:
        """Make the Job's pod and let it run; return its name."""
        job = self.wait_for("jobs", job_name)
        number = len([p for p in self.list("pods") if _owner_uid(p) == job["metadata"]["uid"]])
        name = f"{job_name}-{number}"
        template = job["spec"]["template"]
        tracked = {
            "batch.kubernetes.io/controller-uid": job["metadata"]["uid"],
            "batch.kubernetes.io/job-name": job_name,
        }
        self.create(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": name,
                    "labels": template["metadata"]["labels"] | tracked,
                    "ownerReferences": [_controller_reference(job)],
                },
                "spec": template["spec"] | {"nodeName": "node-1"},
            }
        )
        if "startTime" not in job.get("status", {}):
            self.patch("jobs", job_name, {"status": {"startTime": _now(), "active": 1}}, subresource="status")
        self.set_pod(name, {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}] if ip else None}, {"running": {}})
        return name

    def set_pod(self, name: str, status: Manifest, state: Manifest) -> None:
        """Write a pod's status as its kubelet would."""
        container = {
            "name": "trainer",
            "image": "example/trainer:1",
            "imageID": "",
            "ready": False,
            "restartCount": 0,
            "state": state,
        }
        self.patch("pods", name, {"status": status | {"containerStatuses": [container]}}, subresource="status")

    def end_pod(self, name: str, *, exit_code: int, message: Any) -> None:
        """Let a pod end with an exit code and a termination message."""
        text = message if isinstance(message, str) else json.dumps(message)
        terminated = {"exitCode": exit_code, "message": text, "reason": "Completed" if exit_code == 0 else "Error"}
        phase = "Failed" if exit_code else "Succeeded"
        self.set_pod(name, {"phase": phase}, {"terminated": terminated})

    def succeed(self, job_name: str, message: Any, *, pod: str | None = None) -> None:
        """Let the Job's pod end well, and the Job with it."""
        self.end_pod(pod or self.start_pod(job_name), exit_code=0, message=message)
        self.complete_job(job_name)

    def complete_job(self, job_name: str) -> None:
        """Let the Job controller declare the Job complete."""
        self._end_job(job_name, ["SuccessCriteriaMet", "Complete"], {"succeeded": 1, "completionTime": _now()})

    def fail(self, job_name: str, message: Any, *, exit_code: int, pod: str | None = None) -> None:
        """Let the Job's pod fail, and the Job with it, as an exit code of the user's mistakes does."""
        self.end_pod(pod or self.start_pod(job_name), exit_code=exit_code, message=message)
        self._end_job(job_name, ["FailureTarget", "Failed"], {"failed": 1}, reason="PodFailurePolicy")

    def _end_job(self, name: str, types: list[str], figures: Manifest, *, reason: str = "CompletionsReached") -> None:
        now = _now()
        for count in range(1, len(types) + 1):
            conditions = [
                {
                    "type": t,
                    "status": "True",
                    "reason": reason,
                    "message": "",
                    "lastTransitionTime": now,
                    "lastProbeTime": now,
                }
                for t in types[:count]
            ]
            final = figures if count == len(types) else {}
            status = {"conditions": conditions, "active": 0, "ready": 0} | final
            self.patch("jobs", name, {"status": status}, subresource="status")

    # The Deployment controller and the gateway's.

    def set_ready(self, deployment: str, ready: int, *, seen: Manifest | None = None) -> None:
        """Let a Deployment have so many ready pods: one that is waited for, or as it was ``seen`` and may be gone."""
        manifest = seen or self.wait_for("deployments", deployment)
        replicas = manifest["spec"]["replicas"]
        status = {
            "observedGeneration": manifest["metadata"]["generation"],
            "replicas": replicas,
            "updatedReplicas": replicas,
            "readyReplicas": ready,
            "availableReplicas": ready,
            "unavailableReplicas": replicas - ready,
        }
        self.patch("deployments", deployment, {"status": status}, subresource="status")

    def accept_route(
        self, name: str, *, accepted: bool = True, message: str = "", seen: Manifest | None = None
    ) -> None:
        """Let the gateway's controller take a route in, or refuse it: one that is waited for, or as it was ``seen``."""
        route = seen or self.wait_for("httproutes", name)
        common = {"observedGeneration": route["metadata"]["generation"], "lastTransitionTime": _now()}
        conditions = [
            common
            | {
                "type": "Accepted",
                "status": "True" if accepted else "False",
                "reason": "Accepted" if accepted else "NotAllowedByListeners",
                "message": message,
            },
            common | {"type": "ResolvedRefs", "status": "True", "reason": "ResolvedRefs", "message": ""},
        ]
        parent = {
            "parentRef": route["spec"]["parentRefs"][0],
            "controllerName": "example.com/gateway",
            "conditions": conditions,
        }
        self.patch("httproutes", name, {"status": {"parents": [parent]}}, subresource="status")

    def run_server(self, deployment: str, *, ip: str) -> str:
        """Make a pod of a Deployment that is ready at an address; return its name."""
        template = self.wait_for("deployments", deployment)["spec"]["template"]
        name = f"{deployment}-{ip.replace('.', '-')}"[-63:].lstrip("-")
        metadata = {"name": name, "labels": template["metadata"]["labels"]}
        spec = template["spec"] | {"nodeName": "node-1"}
        self.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": _now()}
        status = {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [ready]}
        self.patch("pods", name, {"status": status}, subresource="status")
        return name

    def deployments_of(self, service: str, variant: str) -> list[str]:
        """Return the names of a variant's revisions."""
        return sorted(n for n in self.names("deployments") if n.startswith(f"{service}--{variant}-"))

    def revision(self, service: str, variant: str) -> str:
        """Wait for a variant's only revision; return its name."""
        found = eventually(lambda: self.deployments_of(service, variant), f"a revision of {variant}")
        assert len(found) == 1
        return found[0]

    def weights(self, service: str) -> dict[str, int]:
        """Return what the route sends where, in percent."""
        route = self.get("httproutes", service)
        rule = route["spec"]["rules"][-1] if route else {"backendRefs": []}
        return {ref["name"]: ref["weight"] / 100 for ref in rule["backendRefs"]}

    def wait_for_weights(self, service: str, wanted: Mapping[str, int]) -> None:
        """Wait until the route splits the traffic like that."""
        eventually(lambda: self.weights(service) == wanted, lambda: f"weights {wanted}, not {self.weights(service)}")

    def _path(self, plural: str, name: str | None = None) -> str:
        path = f"/{PATHS[plural]}/namespaces/{self.namespace}/{plural}"
        return f"{path}/{name}" if name else path


class Trainer:
    """Tells its progress at an address of its own, counts how often it is asked, and takes note of who stops it."""

    def __init__(self) -> None:
        self.address = f"127.{secrets.randbelow(200) + 20}.{secrets.randbelow(250)}.1"
        self.asked = 0
        self.stopped: list[tuple[str, str]] = []
        self.progress: Callable[[], Any] = dict

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Answer for the length of the block."""
        server = ThreadingHTTPServer((self.address, PROGRESS_PORT), _answering_for(self))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()


def _answering_for(trainer: Trainer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            trainer.asked += 1
            self.wfile.write(json.dumps(trainer.progress()).encode())

        def do_POST(self) -> None:
            trainer.stopped.append((self.path, self.headers["Authorization"]))
            self.send_response(202)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


def config_of(world: World, job: str) -> dict[str, Any]:
    """Return the document that a Job's pods work by."""
    volumes = world.wait_for("jobs", job)["spec"]["template"]["spec"]["volumes"]
    name = next(volume["configMap"]["name"] for volume in volumes if volume["name"] == "config")
    document: dict[str, Any] = json.loads(world.wait_for("configmaps", name)["data"]["config.json"])
    return document


def dataset(name: str = "flowers", **spec: Any) -> Manifest:
    """Return a small Dataset."""
    spec = {"source": {"uri": f"s3://{name}/raw"}} | spec
    return {"apiVersion": "bloomery.dev/v1alpha1", "kind": "Dataset", "metadata": {"name": name}, "spec": spec}


def training_job(name: str = "flowers", **spec: Any) -> Manifest:
    """Return a small TrainingJob."""
    spec = {"datasets": [{"name": "flowers"}], "preset": "resnet18", "hyperparameters": {"epochs": 3}} | spec
    return {"apiVersion": "bloomery.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": name}, "spec": spec}


def inference_service(name: str = "flowers", **spec: Any) -> Manifest:
    """Return a small InferenceService."""
    spec = {"variants": [{"name": "v1", "model": {"trainingJob": "flowers"}, "weight": 100}]} | spec
    return {"apiVersion": "bloomery.dev/v1alpha1", "kind": "InferenceService", "metadata": {"name": name}, "spec": spec}


def variant(name: str, weight: int, *, model: str | None = None, **fields: Any) -> Manifest:
    """Return a variant that serves a model folder."""
    return {"name": name, "model": {"uri": model or f"s3://models/{name}"}, "weight": weight} | fields


def prepared(version: str = "a", images: int = 40) -> Manifest:
    """Return what a preparation leaves as its termination message."""
    digest = version * 64
    return {
        "version": digest,
        "uri": f"{STORE}/datasets/demo/flowers/{digest}",
        "images": images,
        "classes": [{"name": "daisy", "train": 16, "validation": 4}, {"name": "roses", "train": 16, "validation": 4}],
        "classCount": 2,
        "ignored": {"TooSmall": 1},
        "warnings": ["Class 'daisy' has fewer than 100 images."],
    }


def trained(version: str | None = "1") -> Manifest:
    """Return what a training leaves as its termination message."""
    return {
        "mlflow": {"experimentId": "7", "runId": "f" * 32},
        "model": {
            "name": "flowers",
            "version": version,
            "uri": f"{STORE}/models/demo/flowers/uid/model",
            "digest": "sha256:" + "d" * 64,
        },
        "metrics": {"top1": 0.9375, "top5": 1.0, "loss": 0.21},
        "reason": "Trained" if version else "NotRegistered",
    }


def condition_of(manifest: Manifest | None, type_: str) -> Manifest:
    """Return an object's condition of a type, empty where it has none."""
    conditions = (manifest or {}).get("status", {}).get("conditions", [])
    return next((c for c in conditions if c["type"] == type_), {})


def eventually(probe: Callable[[], T], what: str | Callable[[], str], *, seconds: float = PATIENCE_SECONDS) -> T:
    """Ask until the answer is truthy; return it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = probe()
        if answer:
            return answer
        time.sleep(0.1)
    pytest.fail(f"not within {seconds:.0f} s: {what if isinstance(what, str) else what()}")


def remove_all_of_ours(client: httpx.Client) -> None:
    """Delete every object of our kinds in the cluster, so that the next operator finds nothing to do."""
    for plural in ("datasets", "trainingjobs", "inferenceservices"):
        root = f"/{PATHS[plural]}"
        for item in checked(client.get(f"{root}/{plural}"))["items"]:
            metadata = item["metadata"]
            client.delete(f"{root}/namespaces/{metadata['namespace']}/{plural}/{metadata['name']}")


def checked(response: httpx.Response) -> Manifest:
    """Return the answer's document; fail in the API server's words."""
    said = f"{response.request.method} {response.request.url}: {response.text}"
    if response.status_code == 404:
        raise Gone(said)
    assert response.is_success, said
    document: Manifest = response.json()
    return document


def free_port() -> int:
    """Return a port of loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(operator: OperatorProcess) -> Iterator[OperatorProcess]:
    """Run an operator for the length of the block; in the end it must have had nothing to complain of."""
    operator.start()
    try:
        yield operator
    finally:
        code = operator.stop()
    assert code == 0, operator.log_text()[-3000:]
    operator.assert_calm()


def _controller_reference(owner: Manifest) -> Manifest:
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
    }


def _owner_uid(manifest: Manifest) -> str | None:
    references = manifest["metadata"].get("ownerReferences", [])
    return next((r["uid"] for r in references if r.get("controller")), None)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
