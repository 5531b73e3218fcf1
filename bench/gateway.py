"""Latency that the gateway adds: the same load from a pod, directly to the model server and through the gateway.

Runs on the cluster of `make cluster` with Bloomery installed, in its own namespace; it is left out without a cluster.
"""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.servers import starts
from bench.serving import MODELS, write_bodies, write_models
from dev import demo
from testing.cluster_store import put_files
from testing.dev_cluster import STORAGE_SECRET, SYSTEM, Kubectl
from testing.load import Load

NAMESPACE = "bench-gateway"
STORE = "s3://bloomery/models/bench-gateway"
ROUNDS = 3
RATE, COUNT = 20.0, 400
"""Requests a second and in a round: too few to wait for each other, so that only the way is measured."""


def is_installed() -> bool:
    """Whether the cluster at hand runs, with Bloomery on it."""
    if shutil.which(demo.tool("kubectl")) is None:
        return False
    ask = ("get", "deployment/bloomery-operator", "--request-timeout=5s")
    return Kubectl(SYSTEM).run(*ask, check=False).returncode == 0


def prepare(folder: Path) -> tuple[Kubectl, bytes]:
    """Serve a small network without a key; return where, and the JPEG to send."""
    name = "mobilenet-v3"
    models, bodies = write_models(folder), write_bodies(folder)
    put_files(STORE, {path.name: path.read_bytes() for path in models[name].iterdir()})
    kubectl = Kubectl(NAMESPACE)
    kubectl.run("create", "namespace", NAMESPACE, check=False)
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": STORAGE_SECRET}}
    kubectl.apply(secret | {"stringData": Kubectl("default").secret(STORAGE_SECRET)})
    kubectl.apply(
        {
            "apiVersion": "bloomery.dev/v1alpha1",
            "kind": "InferenceService",
            "metadata": {"name": "way"},
            "spec": {"auth": "None", "variants": [{"name": "v1", "model": {"uri": STORE}, "weight": 100}]},
        }
    )
    kubectl.wait("isvc/way", "Ready", seconds=120)
    return kubectl, bodies["raw"][0].read_bytes()


def ways(kubectl: Kubectl) -> dict[str, str]:
    """The two addresses, as a pod has them."""
    selector = f"--selector=gateway.envoyproxy.io/owning-gateway-namespace={SYSTEM}"
    services = json.loads(kubectl("get", "services", "--all-namespaces", selector, "--output=json"))["items"]
    gateway = services[0]["metadata"]
    return {
        "straight": f"http://{revision_of(kubectl)}.{NAMESPACE}.svc/predict",
        "gateway": f"http://{gateway['name']}.{gateway['namespace']}.svc/{NAMESPACE}/way/predict",
    }


def revision_of(kubectl: Kubectl) -> str:
    """The name of the Deployment and of the Service that answer."""
    revision: str = kubectl.get("isvc", "way")["status"]["variants"][0]["revision"]
    return revision


def measure(kubectl: Kubectl, image: bytes) -> dict[str, Any]:
    """Ask both ways by turns; return the medians in milliseconds, and what the gateway adds."""
    runs: dict[str, list[tuple[float, float]]] = {"straight": [], "gateway": []}
    for number in range(ROUNDS):
        for way, url in ways(kubectl).items():
            load = Load(kubectl, f"load-{way}-{number}").start(url, key="", image=image, rate=RATE, count=COUNT)
            outcome = load.end(seconds=COUNT / RATE + 120)
            if outcome.wrong:
                raise SystemExit(f"{way}: {outcome.wrong_count} of {outcome.requests} failed: {outcome.wrong[0]}")
            runs[way].append((outcome.p50 * 1000, outcome.p99 * 1000))
        print(f"  round {number + 1} of {ROUNDS}", flush=True)
    latencies: dict[str, Any] = {
        way: {"p50": round(statistics.median(p50 for p50, _ in each), 2),
              "p99": round(statistics.median(p99 for _, p99 in each), 2)}
        for way, each in runs.items()
    }  # fmt: skip
    latencies["added"] = {p: round(latencies["gateway"][p] - latencies["straight"][p], 2) for p in ("p50", "p99")}
    # Here the model comes from the store.
    latencies["start"] = [asdict(start) for start in starts(kubectl("logs", f"deployment/{revision_of(kubectl)}"))]
    return latencies


def main() -> None:
    """Measure on the cluster, and leave nothing there."""
    if not is_installed():
        why = "left out: there is no cluster with Bloomery (make demo starts one)"
        print(f"{why}\n{json.dumps({'leftOut': why})}")
        return
    with tempfile.TemporaryDirectory(prefix="bench-gateway-") as folder:
        try:
            kubectl, image = prepare(Path(folder))
            latencies = measure(kubectl, image)
        finally:
            Kubectl("default").run("delete", "namespace", NAMESPACE, "--wait=false", check=False)
    for way in ("straight", "gateway", "added"):
        print(f"{way:10} p50 {latencies[way]['p50']:7.2f} ms   p99 {latencies[way]['p99']:7.2f} ms")
    print(json.dumps(latencies | {"model": MODELS["mobilenet-v3"]}))


if __name__ == "__main__":
    main()
