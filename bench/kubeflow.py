"""Kubeflow's training-operator on a simulated cluster, with one kind of job instead of six.

It asks the API server at most 20 times a second, as controller-runtime has it, and has no flag for that. So it is
measured twice: as it comes, and built with the limit that the control plane's own controllers have.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from bench.follow import Subject, follow
from bench.kwok import BURST, QPS, SimulatedCluster
from bench.observe import Manifest, Process, Watch
from dev.binaries import build_training_operator, module_folder
from dev.paths import BIN
from dev.stages import run
from dev.versions import TRAINING_OPERATOR
from testing.api_server import write_kubeconfig
from testing.kubernetes_api import condition_of
from testing.processes import free_port
from testing.waiting import eventually

HOME = "kubeflow"
NAMESPACE = "peers"
ACCOUNT = "training-operator"
CERTIFICATES = Path("/tmp/k8s-webhook-server/serving-certs")
"""The path at which it expects a mounted Secret; the path cannot be set."""
MODULE = "github.com/kubeflow/training-operator"
COMMAND = "training-operator.v1"
PROGRAMS = {
    "defaults": BIN / COMMAND,
    "raised": BIN / f"{COMMAND}-{TRAINING_OPERATOR}-qps{QPS}",
}
_CERTIFICATE_SECRET = "training-operator-webhook-cert"
_VALIDATOR = "validator.training-operator.kubeflow.org"
_LIMITED = "\tmgr, err := ctrl.NewManager(ctrl.GetConfigOrDie(), "
_RAISED = f"""\tasking := ctrl.GetConfigOrDie()
\tasking.QPS, asking.Burst = {QPS}, {BURST}
\tmgr, err := ctrl.NewManager(asking, """


def build(log: TextIO) -> None:
    """Build it as it comes and with its limit raised, each once for a version."""
    build_training_operator(log)
    if PROGRAMS["raised"].exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        # Go keeps its modules' files read-only; copied without their modes, they are not.
        shutil.copytree(module_folder(MODULE, TRAINING_OPERATOR), source, copy_function=shutil.copyfile)
        main = source / "cmd" / COMMAND / "main.go"
        main.write_text(raised(main.read_text()))
        command = ["go", "build", "-trimpath", "-ldflags", "-s -w", "-o", str(PROGRAMS["raised"]), f"./cmd/{COMMAND}"]
        run(command, log, cwd=source, env={**os.environ, "CGO_ENABLED": "0"})


def raised(main: str) -> str:
    """Return its main.go with the limit of requests that the control plane's own controllers have here."""
    if main.count(_LIMITED) != 1:
        raise SystemExit(f"training-operator {TRAINING_OPERATOR} makes its manager in another way than is known")
    return main.replace(_LIMITED, _RAISED)


def measure(cluster: SimulatedCluster, count: int, program: Path) -> dict[str, Any]:
    """Create so many PyTorchJobs of one pod and follow them to their end."""
    with _training_operator(cluster, program) as process:
        subject = Subject(process, HOME)
        jobs = f"/apis/kubeflow.org/v1/namespaces/{NAMESPACE}/pytorchjobs"
        watches = {
            "pods": Watch(cluster.server, f"/api/v1/namespaces/{NAMESPACE}/pods"),
            "done": Watch(cluster.server, jobs, lambda m: condition_of(m, "Succeeded").get("status") == "True"),
        }
        return follow(cluster, subject, jobs, [_job(number) for number in range(count)], watches)


@contextmanager
def _training_operator(cluster: SimulatedCluster, program: Path) -> Iterator[Process]:
    kubeconfig = _prepare(cluster)
    metrics, health, webhooks = free_port(), free_port(), free_port()
    command = [str(program), "--enable-scheme=pytorchjob", f"--kubeconfig={kubeconfig}"]
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
    crd = module_folder(MODULE, TRAINING_OPERATOR) / "manifests" / "base" / "crds" / "kubeflow.org_pytorchjobs.yaml"
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
