"""Kubeflow's training-operator on a simulated cluster, with its defaults, and one kind of job instead of six."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.follow import Subject, follow
from bench.kwok import SimulatedCluster
from bench.observe import Manifest, Process, Watch
from dev.binaries import module_folder
from dev.paths import BIN
from dev.versions import TRAINING_OPERATOR
from tests.component.operator_fixtures import write_kubeconfig
from tests.component.operator_harness import condition_of, eventually, free_port

HOME = "kubeflow"
NAMESPACE = "peers"
ACCOUNT = "training-operator"
CERTIFICATES = Path("/tmp/k8s-webhook-server/serving-certs")
"""Where it wants a mounted Secret; the place can not be set."""
_CERTIFICATE_SECRET = "training-operator-webhook-cert"
_VALIDATOR = "validator.training-operator.kubeflow.org"


def measure(cluster: SimulatedCluster, count: int) -> dict[str, Any]:
    """Create so many PyTorchJobs of one pod and follow them to their end."""
    with _training_operator(cluster) as process:
        subject = Subject(process, HOME)
        jobs = f"/apis/kubeflow.org/v1/namespaces/{NAMESPACE}/pytorchjobs"
        watches = {
            "pods": Watch(cluster.server, f"/api/v1/namespaces/{NAMESPACE}/pods"),
            "done": Watch(cluster.server, jobs, lambda m: condition_of(m, "Succeeded").get("status") == "True"),
        }
        return follow(cluster, subject, jobs, [_job(number) for number in range(count)], watches)


@contextmanager
def _training_operator(cluster: SimulatedCluster) -> Iterator[Process]:
    kubeconfig = _prepare(cluster)
    metrics, health, webhooks = free_port(), free_port(), free_port()
    command = [str(BIN / "training-operator.v1"), "--enable-scheme=pytorchjob", f"--kubeconfig={kubeconfig}"]
    command += [f"--metrics-bind-address=127.0.0.1:{metrics}", f"--health-probe-bind-address=127.0.0.1:{health}"]
    command += [f"--webhook-server-port={webhooks}"]
    log = cluster.folder / "training-operator.log"
    process = Process(command, {}, log)
    try:
        # Its first reconciler is ready once it says so; before that, it would start late and look slow.
        eventually(lambda: "Starting workers" in log.read_text(), "training-operator works", seconds=60)
        yield process
    finally:
        process.stop()
        shutil.rmtree(CERTIFICATES.parent)


def _prepare(cluster: SimulatedCluster) -> Path:
    """Install its kind and rights, and what its certificates need; return its kubeconfig."""
    crd = module_folder("github.com/kubeflow/training-operator", TRAINING_OPERATOR)
    crd = crd / "manifests" / "base" / "crds" / "kubeflow.org_pytorchjobs.yaml"
    cluster.kubectl("apply", "--server-side", "-f", str(crd))
    cluster.wait_until_watchable("/apis/kubeflow.org/v1/pytorchjobs")
    for namespace in (HOME, NAMESPACE):
        cluster.kubectl("create", "namespace", namespace)
    cluster.kubectl("create", "secret", "generic", _CERTIFICATE_SECRET, "--namespace", HOME)
    # Without a webhook in it, as no call from the API server to a process here would be worth its time.
    validator = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration"}
    cluster.kubectl("create", "-f", "-", input=validator | {"metadata": {"name": _VALIDATOR}, "webhooks": []})
    CERTIFICATES.mkdir(parents=True)
    for ours, theirs in (("server.crt", "tls.crt"), ("server.key", "tls.key")):
        shutil.copy(cluster.folder / ours, CERTIFICATES / theirs)
    binding = ("create", "clusterrolebinding", ACCOUNT, "--clusterrole=cluster-admin")
    cluster.kubectl(*binding, f"--serviceaccount={HOME}:{ACCOUNT}")
    cluster.kubectl("create", "serviceaccount", ACCOUNT, "--namespace", HOME)
    path = cluster.folder / "training-operator.kubeconfig"
    return write_kubeconfig(cluster.server, path, namespace=HOME, account=ACCOUNT)


def _job(number: int) -> Manifest:
    container = {"name": "pytorch", "image": "example/trainer:1"}
    replicas = {"replicas": 1, "restartPolicy": "OnFailure", "template": {"spec": {"containers": [container]}}}
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": f"job-{number:04}"},
        "spec": {"pytorchReplicaSpecs": {"Master": replicas}},
    }
