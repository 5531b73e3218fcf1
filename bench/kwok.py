"""A cluster without machines: a real control plane, and kwok in the place of nodes, their pods and the gateway."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from bench.observe import Calls
from dev.paths import BIN
from testing.api_server import ApiServer, find_binary, install_kinds, private_apiserver, wait_until_watchable
from testing.gateway_api import install_gateway_api
from testing.kubernetes_api import checked
from testing.processes import running_program
from testing.samples import prepared, trained
from testing.simulated_controllers import PROGRESS_PORT

Manifest = dict[str, Any]

NODES = 20
POD_IP = "127.64.0.1"
"""Of all pods: there, `trainers_and_servers` answers for them."""
METRICS_PORT = 9090
_CLONE_NEWNET = 0x40000000
TRAINING_SECONDS = 5.0
QPS, BURST = 300, 500
LIMITS = (f"--kube-api-qps={QPS}", f"--kube-api-burst={BURST}")
"""Of the control plane's own controllers, so that they are not what is measured."""
_WATCHES = "--feature-gates=WatchList=false"
"""kwok asks for a kind of watch that Debian's etcd has not got, and does without it only where it is switched off."""
KUBEFLOW_POD = '.metadata.labels["training.kubeflow.org/job-name"]'


@dataclass(frozen=True)
class SimulatedCluster:
    """A control plane, its nodes, and the record of who asked it what."""

    server: ApiServer
    folder: Path
    calls: Calls

    def kubectl(self, *words: str, input: Manifest | str | None = None) -> str:
        """Run kubectl as administrator; return what it says."""
        done = self.server.kubectl(*words, input=input)
        if done.returncode:
            raise SystemExit(f"kubectl {' '.join(words)}: {done.stderr}")
        return done.stdout

    def wait_until_watchable(self, path: str) -> None:
        """Wait for a new kind's watch cache."""
        with self.server.http() as client:
            wait_until_watchable(client, path)


@contextmanager
def simulated_cluster(folder: Path) -> Iterator[SimulatedCluster]:
    """Run a cluster with nodes that are always ready, pods that start at once and trainings that succeed."""
    audit = folder / "audit.jsonl"
    with ExitStack() as stack:
        # With a loopback interface alone it finds no address; nothing uses the address given here.
        flags = ("--advertise-address=192.0.2.1", _WATCHES, *_auditing(folder, audit))
        server = stack.enter_context(private_apiserver(folder, *flags))
        cluster = SimulatedCluster(server, folder, Calls(audit))
        install_kinds(server)
        install_gateway_api(server, "gateways", "httproutes")
        cluster.wait_until_watchable("/apis/gateway.networking.k8s.io/v1/httproutes")
        stack.enter_context(trainers_and_servers())
        for name, command in _programs(server, folder).items():
            stack.enter_context(running_program(command, log=folder / f"{name}.log"))
        for number in range(NODES):
            cluster.kubectl("create", "-f", "-", input=_node(number))
        ready = ("wait", "--for=condition=Ready", "node", "--all", "--timeout=60s")
        cluster.kubectl(*ready)
        yield cluster


def _auditing(folder: Path, log: Path) -> tuple[str, ...]:
    """Return the flags that have the API server write down who asked it what."""
    policy = folder / "audit.yaml"
    policy.write_text(
        json.dumps(
            {
                "apiVersion": "audit.k8s.io/v1",
                "kind": "Policy",
                "omitStages": ["RequestReceived"],
                "rules": [
                    {"level": "None", "userGroups": ["system:masters"]},
                    {"level": "None", "users": ["system:apiserver"]},
                    {"level": "Metadata"},
                ],
            }
        )
    )
    return f"--audit-policy-file={policy}", f"--audit-log-path={log}"


def _programs(server: ApiServer, folder: Path) -> dict[str, list[str]]:
    kubeconfig = f"--kubeconfig={server.kubeconfig}"
    config = folder / "kwok.yaml"
    config.write_text("\n---\n".join(json.dumps(document) for document in [_kwok_settings(), *_stages()]))
    common = [kubeconfig, "--leader-elect=false", "--secure-port=0", *LIMITS]
    return {
        "kube-controller-manager": [
            str(find_binary("kube-controller-manager")),
            *common,
            f"--service-account-private-key-file={folder / 'server.key'}",
            f"--root-ca-file={server.ca_file}",
        ],
        "kube-scheduler": [str(find_binary("kube-scheduler")), *common],
        "kwok": [str(BIN / "kwok"), kubeconfig, f"--config={config}", "--manage-all-nodes"],
    }


def _kwok_settings() -> Manifest:
    options = {"podPlayStageParallelism": 16, "nodeLeaseDurationSeconds": 40}
    return {"apiVersion": "config.kwok.x-k8s.io/v1alpha1", "kind": "KwokConfiguration", "options": options}


def _stages() -> list[Manifest]:
    """Return what kwok does: pods run, trainings succeed with their last words, deleted pods go, routes are accepted.

    Nodes become ready by the rules that kwok brings itself.
    """
    return [
        _stage("pod-ready", "v1", "Pod", [_absent(".metadata.deletionTimestamp"), _absent(".status.podIP")], _RUNNING),
        _completion("prepare", json.dumps(prepared()), labels={"app.kubernetes.io/name": "prepare"}),
        _completion("train", json.dumps(trained()), labels={"app.kubernetes.io/name": "train"}),
        _completion("kubeflow", "", [{"key": KUBEFLOW_POD, "operator": "Exists"}]),
        _stage("pod-delete", "v1", "Pod", [{"key": ".metadata.deletionTimestamp", "operator": "Exists"}]),
        _stage("route", "gateway.networking.k8s.io/v1", "HTTPRoute", [_STALE_ROUTE], _ACCEPTED),
    ]


def _completion(
    name: str, words: str, expressions: Sequence[Manifest] = (), *, labels: Mapping[str, str] | None = None
) -> Manifest:
    running = {"key": ".status.phase", "operator": "In", "values": ["Running"]}
    template = _SUCCEEDED.replace("MESSAGE", json.dumps(words))
    expressions = [_absent(".metadata.deletionTimestamp"), running, *expressions]
    stage = _stage(name, "v1", "Pod", expressions, template)
    stage["spec"]["selector"] |= {"matchLabels": dict(labels)} if labels else {}
    stage["spec"]["delay"] = {"durationMilliseconds": round(1000 * TRAINING_SECONDS)}
    return stage


def _stage(name: str, group: str, kind: str, expressions: Sequence[Manifest], template: str = "") -> Manifest:
    then = {"statusTemplate": template} if template else {"finalizers": {"empty": True}, "delete": True}
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": {
            "resourceRef": {"apiGroup": group, "kind": kind},
            "selector": {"matchExpressions": list(expressions)},
            "next": then,
        },
    }


def _absent(key: str) -> Manifest:
    return {"key": key, "operator": "DoesNotExist"}


_RUNNING = """
{{ $now := Now }}
phase: Running
startTime: {{ $now | Quote }}
hostIP: POD_IP
podIP: POD_IP
conditions:
{{ range $type := (list "Initialized" "Ready" "ContainersReady") }}
- {type: {{ $type }}, status: "True", lastTransitionTime: {{ $now | Quote }}}
{{ end }}
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  ready: true
  restartCount: 0
  state: {running: {startedAt: {{ $now | Quote }}}}
{{ end }}
""".replace("POD_IP", POD_IP)
_SUCCEEDED = """
{{ $now := Now }}
phase: Succeeded
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  ready: false
  restartCount: 0
  state:
    terminated:
      {exitCode: 0, reason: Completed, startedAt: {{ $now | Quote }}, finishedAt: {{ $now | Quote }}, message: MESSAGE}
{{ end }}
"""
_STALE_ROUTE = {
    "key": "([(.status.parents // [])[].conditions[].observedGeneration] | max) == .metadata.generation",
    "operator": "In",
    "values": ["false"],
}
_ACCEPTED = """
{{ $now := Now }}
{{ $generation := .metadata.generation }}
parents:
- controllerName: bench.bloomery.dev/gateway
  parentRef: {{ index .spec.parentRefs 0 | toJson }}
  conditions:
  {{ range $type := (list "Accepted" "ResolvedRefs") }}
  - type: {{ $type }}
    status: "True"
    reason: {{ $type }}
    message: ""
    observedGeneration: {{ $generation }}
    lastTransitionTime: {{ $now | Quote }}
  {{ end }}
"""


def _node(number: int) -> Manifest:
    size = {"cpu": "1k", "memory": "4Ti", "pods": "10k"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": f"node-{number}", "labels": {"type": "kwok"}},
        "status": {"allocatable": size, "capacity": size},
    }


def make_gateway(cluster: SimulatedCluster, namespace: str, name: str) -> None:
    """Make a Gateway that has an address."""
    root = f"/apis/gateway.networking.k8s.io/v1/namespaces/{namespace}/gateways"
    kind = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": name}}
    listener = {"name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "All"}}}
    status = {"status": {"addresses": [{"type": "IPAddress", "value": "192.0.2.1"}]}}
    headers = {"Content-Type": "application/merge-patch+json"}
    with cluster.server.http() as client:
        checked(client.post(root, json=kind | {"spec": {"gatewayClassName": "bench", "listeners": [listener]}}))
        checked(client.patch(f"{root}/{name}/status", content=json.dumps(status), headers=headers))


def leave_the_network() -> None:
    """Give this process and its children a loopback of their own: the pods' ports are free there, whatever runs here.

    Threads that run already keep the former network.
    """
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
        raise SystemExit(f"a network namespace needs root: {os.strerror(ctypes.get_errno())}")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


@contextmanager
def trainers_and_servers() -> Iterator[None]:
    """Serve a trainer's progress and a model server's metrics at the pods' address."""
    metrics = f'bloomery_model_info{{digest="sha256:{"d" * 64}"}} 1\n'
    progress = {"stage": "train", "epoch": 2, "step": 40, "totalSteps": 100, "loss": 0.4}
    answers = {PROGRESS_PORT: json.dumps(progress), METRICS_PORT: metrics}
    with ExitStack() as stack:
        for port, answer in answers.items():
            server = ThreadingHTTPServer((POD_IP, port), _answering(answer.encode()))
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
        yield


def _answering(answer: bytes) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler
