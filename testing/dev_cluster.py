"""Access to the cluster of ``dev/``, for tests and measurements with real pods."""

from __future__ import annotations

import base64
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dev import demo
from dev.paths import LOGS, ROOT, target

SYSTEM = demo.RELEASE_NAMESPACE
EXAMPLE = ROOT / "examples" / "digits" / "digits.yaml"
STORAGE_SECRET = "bloomery-storage"
OPERATOR = "app.kubernetes.io/component=operator"
"""Label selector of the operator's pods."""


@dataclass(frozen=True)
class Kubectl:
    """kubectl for one namespace."""

    namespace: str

    def run(self, *words: str, stdin: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command."""
        command = [demo.tool("kubectl"), f"--namespace={self.namespace}", *words]
        done = subprocess.run(
            command, input=stdin, env=target().environment, capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, f"kubectl {' '.join(words)}: {done.stderr}"
        return done

    def __call__(self, *words: str, stdin: str | None = None) -> str:
        """Run a command; return its output."""
        return self.run(*words, stdin=stdin).stdout

    def get(self, kind: str, name: str = "", *more: str) -> Any:
        """Return an object, or all objects of a kind."""
        document = json.loads(self("get", kind, *([name] if name else []), *more, "--output=json"))
        return document if name else document["items"]

    def apply(self, manifest: Mapping[str, Any] | Path) -> subprocess.CompletedProcess[str]:
        """Apply a manifest or a file; a rejection does not raise."""
        if isinstance(manifest, Path):
            return self.run("apply", f"--filename={manifest}", check=False)
        return self.run("apply", "--filename=-", stdin=json.dumps(manifest), check=False)

    def secret(self, name: str) -> dict[str, str]:
        """Return the decoded data of a Secret."""
        data = self.get("secret", name)["data"]
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def wait(self, what: str, condition: str, *, seconds: int) -> None:
        """Wait until an object has a condition."""
        self("wait", what, f"--for=condition={condition}", f"--timeout={seconds}s")


def user_namespace(name: str) -> Kubectl:
    """Create a restricted namespace with the storage Secret, in place of one from an earlier run."""
    kubectl = Kubectl(name)
    kubectl.run("delete", "namespace", name, "--ignore-not-found", "--wait=true")
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": STORAGE_SECRET},
        "stringData": Kubectl("default").secret(STORAGE_SECRET),
    }
    for manifest in (namespace, secret):
        done = kubectl.apply(manifest)
        assert done.returncode == 0, done.stderr
    return kubectl


def gateway_address(system: Kubectl) -> str:
    """Return the gateway's address inside the cluster."""
    selector = f"--selector=gateway.envoyproxy.io/owning-gateway-namespace={SYSTEM}"
    services = system.get("services", "", "--all-namespaces", selector)
    metadata = services[0]["metadata"]
    return f"http://{metadata['name']}.{metadata['namespace']}.svc"


@contextmanager
def reachable_mlflow() -> Iterator[str]:
    """Yield an address of the installation's MLflow that can be reached from here during the block."""
    server = f"http://bloomery-mlflow.{SYSTEM}.svc.cluster.local:5000"
    with (LOGS / "e2e-mlflow.log").open("a") as log, demo.reachable(server, log) as address:
        yield address


def read_metrics(kubectl: Kubectl, pod: str, *, port: int = 9090) -> str:
    """Return the metrics of one of our pods, asked in the pod itself."""
    url = f"http://127.0.0.1:{port}/metrics"
    fetch = f"import urllib.request; print(urllib.request.urlopen('{url}').read().decode())"
    return kubectl("exec", pod, "--", "python", "-c", fetch)


def eventually(what: str, probe: Callable[[], Any], *, seconds: float, interval: float = 0.5) -> Any:
    """Return the probe's first true result; fail if there is none in time."""
    end = time.monotonic() + seconds
    while True:
        result = probe()
        if result:
            return result
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}"
        time.sleep(interval)


class OperatorKiller:
    """Kills the operator's pods repeatedly from a thread during the block.

    Each kill waits until an operator has held the Lease for ``work_seconds``. A fixed interval shorter than the Lease
    plus the start of a pod, which a busy machine stretches, would leave no operator alive long enough to work at all.
    """

    def __init__(self, system: Kubectl, *, work_seconds: float) -> None:
        self._system = system
        self._work_seconds = work_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.kills = 0

    def __enter__(self) -> OperatorKiller:
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the thread, and wait until the operator is available."""
        self._stop.set()
        self._thread.join()
        self._system("rollout", "status", "deployment/bloomery-operator", "--timeout=300s")

    def _run(self) -> None:
        victim = ""
        while holder := self._next_holder(victim):
            if self._stop.wait(self._work_seconds):
                return
            words = ("pods", f"--selector={OPERATOR}", "--grace-period=0", "--force")
            self._system.run("delete", *words, check=False)
            self.kills += 1
            victim = holder

    def _next_holder(self, victim: str) -> str:
        """Return the next identity that holds the Lease after the victim; empty when the block ends."""
        while not self._stop.wait(0.5):
            holder = self._system.run(
                "get", "lease", "bloomery-operator", "--output=jsonpath={.spec.holderIdentity}", check=False
            ).stdout
            if holder and holder != victim:
                return holder
        return ""


@dataclass(frozen=True)
class Digits:
    """The digits example with a serving InferenceService."""

    kubectl: Kubectl
    operator_kills: int

    @property
    def url(self) -> str:
        """The service's URL."""
        url: str = self.kubectl.get("isvc", "digits")["status"]["url"]
        return url

    @property
    def key(self) -> str:
        """The service's API key."""
        name = self.kubectl.get("isvc", "digits")["status"]["apiKeySecret"]
        return self.kubectl.secret(name)["default"]
