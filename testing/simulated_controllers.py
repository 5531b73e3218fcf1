"""Simulated Job and Deployment controllers, kubelets and gateway, for tests with a real API server.

The API server and all objects are real, but no controllers run. ``World`` writes what they would write, so that a
test decides when a pod succeeds and with which termination message.
"""

from __future__ import annotations

import base64
import json
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

from testing.kubernetes_api import PATHS, Manifest, checked, condition_of
from testing.waiting import eventually

PROGRESS_PORT = 8089


class World:
    """One namespace of the API server, with simulated controllers and kubelets."""

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
        """Delete an object; the objects that it owned stay, as no garbage collector runs."""
        body = {"propagationPolicy": "Background", "gracePeriodSeconds": 0}
        checked(self.client.request("DELETE", self._path(plural, name), json=body))

    def begin_deletion(self, plural: str, name: str) -> None:
        """Start to delete a pod whose kubelet does not answer."""
        body = {"propagationPolicy": "Background", "gracePeriodSeconds": 300}
        checked(self.client.request("DELETE", self._path(plural, name), json=body))

    def wait_for(self, plural: str, name: str, condition: Callable[[Manifest], object] = bool) -> Manifest:
        """Wait until an object exists and meets the condition; return it."""
        last: Manifest | None = None

        def met() -> Manifest | None:
            nonlocal last
            last = self.get(plural, name)
            return last if last is not None and condition(last) else None

        return eventually(
            met, lambda: f"{plural} {name} does not meet the condition; it is {json.dumps(last, indent=1)}"
        )

    def wait_until_gone(self, plural: str, name: str) -> None:
        """Wait until an object is deleted."""
        eventually(lambda: self.get(plural, name) is None, f"{plural} {name} is gone")

    def wait_for_condition(
        self, plural: str, name: str, type_: str, status: str, *, reason: str | None = None
    ) -> Manifest:
        """Wait until an object's condition has this status and reason; return the condition."""

        def met(manifest: Manifest) -> bool:
            condition = condition_of(manifest, type_)
            return bool(condition) and condition["status"] == status and reason in (None, condition["reason"])

        return condition_of(self.wait_for(plural, name, met), type_)

    def make_storage_secret(self) -> None:
        """Create the Secret with the store's credentials."""
        self.create({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bloomery-storage"}, "data": {}})

    def use_mlflow(self, uri: str) -> None:
        """Set the MLflow server of the namespace."""
        value = base64.b64encode(uri.encode()).decode()
        self.patch("secrets", "bloomery-storage", {"data": {"MLFLOW_TRACKING_URI": value}})

    # The Job controller and the kubelet.

    def start_pod(self, job_name: str, *, ip: str | None = None, index: int | None = None) -> str:
        """Create a running pod of a Job, with its index in an Indexed Job; return its name."""
        job = self.wait_for("jobs", job_name)
        number = len([p for p in self.list("pods") if _owner_uid(p) == job["metadata"]["uid"]])
        name = f"{job_name}-{number}"
        template = job["spec"]["template"]
        tracked = {
            "batch.kubernetes.io/controller-uid": job["metadata"]["uid"],
            "batch.kubernetes.io/job-name": job_name,
            **({} if index is None else {"batch.kubernetes.io/job-completion-index": str(index)}),
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
        """Write a pod's status, as the kubelet does."""
        container = {
            "name": self.wait_for("pods", name)["spec"]["containers"][0]["name"],
            "image": "example/trainer:1",
            "imageID": "",
            "ready": False,
            "restartCount": 0,
            "state": state,
        }
        self.patch("pods", name, {"status": status | {"containerStatuses": [container]}}, subresource="status")

    def end_pod(self, name: str, *, exit_code: int, message: Any) -> None:
        """End a pod with an exit code and a termination message."""
        text = message if isinstance(message, str) else json.dumps(message)
        terminated = {"exitCode": exit_code, "message": text, "reason": "Completed" if exit_code == 0 else "Error"}
        phase = "Failed" if exit_code else "Succeeded"
        self.set_pod(name, {"phase": phase}, {"terminated": terminated})

    def succeed(self, job_name: str, message: Any, *, pod: str | None = None) -> None:
        """End the Job's pod and the Job with success."""
        self.end_pod(pod or self.start_pod(job_name), exit_code=0, message=message)
        self.complete_job(job_name)

    def complete_job(self, job_name: str) -> None:
        """Set the Job's condition Complete, as the Job controller does."""
        completions = self.wait_for("jobs", job_name)["spec"].get("completions", 1)
        indexes = {"completedIndexes": f"0-{completions - 1}"} if completions > 1 else {}
        figures = {"succeeded": completions, "completionTime": _now()} | indexes
        self._end_job(job_name, ["SuccessCriteriaMet", "Complete"], figures)

    def fail(self, job_name: str, message: Any, *, exit_code: int, pod: str | None = None) -> None:
        """End the Job's pod with an exit code and fail the Job by its pod failure policy."""
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

    def set_ready(
        self, deployment: str, ready: int, *, seen: Manifest | None = None, unavailable_since: str | None = None
    ) -> None:
        """Set a Deployment's number of ready pods, and since when it has too few.

        Without ``seen``, wait for the Deployment.
        """
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
        if unavailable_since is not None:
            available = {"type": "Available", "status": "False", "reason": "MinimumReplicasUnavailable", "message": ""}
            status["conditions"] = [available | {"lastTransitionTime": unavailable_since}]
        self.patch("deployments", deployment, {"status": status}, subresource="status")

    def accept_route(
        self, name: str, *, accepted: bool = True, message: str = "", seen: Manifest | None = None
    ) -> None:
        """Accept or reject a route, as the gateway's controller does; without ``seen``, wait for the route."""
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
        """Create a ready pod of a Deployment at an IP address; return its name."""
        owner = self.wait_for("deployments", deployment)
        template = owner["spec"]["template"]
        name = f"{deployment}-{ip.replace('.', '-')}"[-63:].lstrip("-")
        metadata = {
            "name": name,
            "labels": template["metadata"]["labels"],
            "ownerReferences": [_controller_reference(self._replica_set(owner))],
        }
        spec = template["spec"] | {"nodeName": "node-1"}
        self.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": _now()}
        status = {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [ready]}
        self.patch("pods", name, {"status": status}, subresource="status")
        return name

    def _replica_set(self, deployment: Manifest) -> Manifest:
        """Return the ReplicaSet of a Deployment, which the Deployment controller would create."""
        name = f"{deployment['metadata']['name']}-simulated"
        existing = self.get("replicasets", name)
        if existing is not None:
            return existing
        spec = {field: deployment["spec"][field] for field in ("selector", "template")}
        metadata = {"name": name, "ownerReferences": [_controller_reference(deployment)]}
        return self.create({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": metadata, "spec": spec})

    def deployments_of(self, service: str, variant: str) -> list[str]:
        """Return the names of a variant's revisions."""
        return sorted(n for n in self.names("deployments") if n.startswith(f"{service}--{variant}-"))

    def revision(self, service: str, variant: str) -> str:
        """Wait for a variant's only revision; return its name."""
        revisions = eventually(lambda: self.deployments_of(service, variant), f"a revision of {variant}")
        assert len(revisions) == 1
        return revisions[0]

    def weights(self, service: str) -> dict[str, int]:
        """Return the route's weights in percent by revision."""
        route = self.get("httproutes", service)
        rule = route["spec"]["rules"][-1] if route else {"backendRefs": []}
        return {ref["name"]: ref["weight"] / 100 for ref in rule["backendRefs"]}

    def wait_for_weights(self, service: str, expected: Mapping[str, int]) -> None:
        """Wait until the route has these weights."""
        eventually(
            lambda: self.weights(service) == expected, lambda: f"weights {expected}, not {self.weights(service)}"
        )

    def _path(self, plural: str, name: str | None = None) -> str:
        path = f"/{PATHS[plural]}/namespaces/{self.namespace}/{plural}"
        return f"{path}/{name}" if name else path


class Trainer:
    """A simulated trainer: serves its progress, counts the requests for it, and records requests to stop."""

    def __init__(self) -> None:
        self.address = f"127.{secrets.randbelow(200) + 20}.{secrets.randbelow(250)}.1"
        self.requests = 0
        self.stopped: list[tuple[str, str]] = []
        self.progress: Callable[[], Any] = dict

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Answer requests during the block."""
        server = ThreadingHTTPServer((self.address, PROGRESS_PORT), _handler_class(self))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()


def _handler_class(trainer: Trainer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            trainer.requests += 1
            self.wfile.write(json.dumps(trainer.progress()).encode())

        def do_POST(self) -> None:
            trainer.stopped.append((self.path, self.headers["Authorization"]))
            self.send_response(202)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


def config_of(world: World, job: str) -> dict[str, Any]:
    """Return the configuration document of a Job's pods."""
    volumes = world.wait_for("jobs", job)["spec"]["template"]["spec"]["volumes"]
    (volume,) = (volume for volume in volumes if volume["name"] == "config")
    if "configMap" in volume:
        content = world.wait_for("configmaps", volume["configMap"]["name"])["data"]["config.json"].encode()
    else:
        secret = world.wait_for("secrets", volume["secret"]["secretName"])
        content = base64.b64decode(secret["data"]["config.json"])
    document: dict[str, Any] = json.loads(content)
    return document


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
