"""Our operator on a simulated cluster: many jobs, many services, edits among them, rest, and a restart with all."""

from __future__ import annotations

import json
import statistics
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from bench.follow import PATIENCE_SECONDS, Subject, create, follow
from bench.kwok import SimulatedCluster, make_gateway
from bench.observe import Manifest, Process, Processors, Watch
from bloomery_operator.settings import Settings
from testing.api_server import find_binary, grant_rights
from testing.kubernetes_api import PATHS, checked, condition_of
from testing.processes import free_port
from testing.samples import dataset, inference_service, training_job, variant

HOME = "bloomery"
NAMESPACE = "work"
GATEWAY = "bloomery"
EDITS = 60
REST_SECONDS = Settings.model_fields["resync_seconds"].default + 10.0
"""It lists everything now and then, and looks at all of it: less time would count a rest without that."""


def measure(cluster: SimulatedCluster, jobs: int, services: int, *, rest: bool) -> Iterator[tuple[str, Any]]:
    """Measure it with so many TrainingJobs and InferenceServices; yield each figure with its name as it comes."""
    kubeconfig = _prepare(cluster)
    with _running(cluster, kubeconfig) as ours:
        subject = Subject(ours.process, HOME)
        _make_dataset(cluster, subject)
        yield "jobs", _train(cluster, subject, jobs)
        yield "services", _serve(cluster, subject, services)
        ours.wait_until_settled()
        yield "edits", _edit_weights(cluster, subject, services)
        ours.wait_until_settled()
        if rest:
            yield "rest", _rest(cluster, subject)
        yield "peakMiB", ours.process.peak_mib()
    yield "restart", _restart(cluster, kubeconfig, objects=jobs + services + 1)


class OurOperator:
    """The operator as a process, with its own metrics."""

    def __init__(self, cluster: SimulatedCluster, kubeconfig: Path) -> None:
        """Start it with the chart's settings."""
        self._metrics = free_port()
        environment = {
            "KUBECONFIG": str(kubeconfig),
            "BLOOMERY_TRAINER_IMAGE": "example/trainer:1",
            "BLOOMERY_SERVING_IMAGE": "example/serving:1",
            "BLOOMERY_GATEWAY_NAME": GATEWAY,
            "BLOOMERY_GATEWAY_NAMESPACE": HOME,
            "BLOOMERY_METRICS_PORT": str(self._metrics),
            "BLOOMERY_HEALTH_PORT": str(free_port()),
        }
        self.process = Process(
            [sys.executable, "-m", "bloomery_operator"], environment, cluster.folder / "bloomery.log"
        )

    def wait_until_settled(self, *, reconciles: int = 0) -> float:
        """Wait until so many reconciles went well and nothing waits; return when, by the monotonic clock.

        It queues all objects at its start and takes them in turn: once nothing waits, each was taken. The workers may
        still be at the last ones, and what failed waits elsewhere to be tried again: so for a second nothing may wait
        and nothing may fail.
        """
        end, since, failed = time.monotonic() + PATIENCE_SECONDS, None, 0.0
        while time.monotonic() < end:
            now, metrics, before = time.monotonic(), self._read(), failed
            failed = _reconciles(metrics, "error")
            is_idle = _reconciles(metrics, "success") >= reconciles and metrics.get("bloomery_workqueue_depth") == 0
            since = (since or now) if is_idle and failed == before else None
            if since is not None and now - since >= 1.0:
                return since
            # Each question costs it some milliseconds, which are counted as its own.
            time.sleep(0.25)
        raise SystemExit(f"the operator did not settle within {PATIENCE_SECONDS:.0f} s")

    def errors(self) -> int:
        """Return how many reconciles have failed."""
        return round(_reconciles(self._read(), "error"))

    def _read(self) -> dict[str, float]:
        """Return its metrics by name and labels; none before it serves them."""
        self.process.check()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._metrics}/metrics") as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            return {}
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}


def _reconciles(metrics: Mapping[str, float], result: str) -> float:
    """Return the number of reconciles with a result, of all kinds."""
    label = f'result="{result}"'
    return sum(n for name, n in metrics.items() if name.startswith("bloomery_reconcile_total") and label in name)


@contextmanager
def _running(cluster: SimulatedCluster, kubeconfig: Path) -> Iterator[OurOperator]:
    ours = OurOperator(cluster, kubeconfig)
    try:
        yield ours
    finally:
        ours.process.stop()


def _prepare(cluster: SimulatedCluster) -> Path:
    """Make the account with the chart's rights, a gateway and a namespace; return the account's kubeconfig."""
    path, helm = cluster.folder / "bloomery.kubeconfig", find_binary("helm")
    kubeconfig = grant_rights(cluster.server, path, helm=helm, release="bloomery", home=HOME)
    make_gateway(cluster, HOME, GATEWAY)
    cluster.kubectl("create", "namespace", NAMESPACE)
    cluster.kubectl("create", "secret", "generic", "bloomery-storage", "--namespace", NAMESPACE)
    return kubeconfig


def _make_dataset(cluster: SimulatedCluster, subject: Subject) -> None:
    ready = Watch(cluster.server, _path("datasets"), lambda m: condition_of(m, "Ready").get("status") == "True")
    with ready.following():
        create(cluster, _path("datasets"), [dataset()])
        ready.wait_for(1, seconds=PATIENCE_SECONDS, process=subject.process)


def _train(cluster: SimulatedCluster, subject: Subject, count: int) -> dict[str, Any]:
    """Create TrainingJobs and follow them until each has its Job, its pod, and its model in the status."""
    trains = "app.kubernetes.io/name=train"
    watches = {
        "jobs": Watch(cluster.server, _path("jobs"), selector=trains),
        "pods": Watch(cluster.server, _path("pods"), selector=trains),
        "done": Watch(cluster.server, _path("trainingjobs"), _is_trained),
    }
    jobs = [training_job(f"job-{number:04}") for number in range(count)]
    return follow(cluster, subject, _path("trainingjobs"), jobs, watches)


def _serve(cluster: SimulatedCluster, subject: Subject, count: int) -> dict[str, Any]:
    """Create InferenceServices and follow them until each says that both variants serve and the route is accepted."""
    services = [_service(number, new=10) for number in range(count)]
    watches = {
        "deployments": Watch(cluster.server, _path("deployments"), each=len(services[0]["spec"]["variants"])),
        "routes": Watch(cluster.server, _path("httproutes")),
        "done": Watch(cluster.server, _path("inferenceservices"), _is_serving),
    }
    return follow(cluster, subject, _path("inferenceservices"), services, watches)


def _edit_weights(cluster: SimulatedCluster, subject: Subject, services: int) -> dict[str, Any]:
    """Change the weights of one service after the other; return how long each route took to follow."""
    routes = Watch(cluster.server, _path("httproutes"))
    mark, processors, seconds = cluster.calls.mark(), Processors(), []
    with cluster.server.http() as client, routes.following():
        routes.wait_for(services, seconds=PATIENCE_SECONDS, process=subject.process)
        for edit in range(EDITS):
            new = 20 + edit // services
            manifest = _service(edit % services, new=new)
            name = manifest["metadata"]["name"]
            routes.wait_for_another(name, partial(_gives, new))
            began = time.monotonic()
            change = json.dumps({"spec": manifest["spec"]})
            headers = {"Content-Type": "application/merge-patch+json"}
            checked(client.patch(f"{_path('inferenceservices')}/{name}", content=change, headers=headers))
            seconds.append(routes.next_change(name, since=began, seconds=PATIENCE_SECONDS))
        busy = processors.figures()
    calls = cluster.calls.since(mark, HOME).total()
    p95 = statistics.quantiles(seconds, n=20)[-1]
    figures = {"p50": statistics.median(seconds), "p95": p95, "longest": max(seconds), "callsEach": calls / EDITS}
    return {"edits": EDITS, **{name: round(value, 3) for name, value in figures.items()}, "processors": busy}


def _rest(cluster: SimulatedCluster, subject: Subject) -> dict[str, Any]:
    """Leave it alone for a while; return what it takes all the same."""
    mark, processors, cpu = cluster.calls.mark(), Processors(), subject.process.cpu_seconds()
    time.sleep(REST_SECONDS)
    busy, calls = processors.figures(), cluster.calls.since(mark, HOME)
    return {
        "seconds": REST_SECONDS,
        "cpuSeconds": round(subject.process.cpu_seconds() - cpu, 2),
        "calls": calls.total(),
        "callsBy": dict(calls.most_common()),
        "processors": busy,
    }


def _restart(cluster: SimulatedCluster, kubeconfig: Path, *, objects: int) -> dict[str, Any]:
    """Restart the operator with all objects in place; return how long it takes to reconcile all of them.

    There is no work, so no reconcile may fail, and no status may change.
    """
    before, mark = _statuses(cluster), cluster.calls.mark()
    began, processors = time.monotonic(), Processors()
    with _running(cluster, kubeconfig) as ours:
        seconds = ours.wait_until_settled(reconciles=objects) - began
        busy, errors = processors.figures(), ours.errors()
        cpu, peak = ours.process.cpu_seconds(), ours.process.peak_mib()
    calls, after = cluster.calls.since(mark, HOME), _statuses(cluster)
    return {
        "seconds": round(seconds, 2),
        "cpuSeconds": round(cpu, 2),
        "peakMiB": peak,
        "errors": errors,
        "changedStatuses": sorted(name for name in before | after if before.get(name) != after.get(name)),
        "calls": calls.total(),
        "callsBy": dict(calls.most_common()),
        "processors": busy,
    }


def _statuses(cluster: SimulatedCluster) -> dict[str, Any]:
    """Return the status of every object of ours, by kind and name."""
    statuses = {}
    with cluster.server.http() as client:
        for plural in ("datasets", "trainingjobs", "inferenceservices"):
            items = checked(client.get(_path(plural)))["items"]
            statuses.update({f"{plural}/{item['metadata']['name']}": item.get("status") for item in items})
    return statuses


def _service(number: int, *, new: int) -> Manifest:
    return inference_service(f"service-{number:04}", variants=[variant("v1", 100 - new), variant("v2", new)])


def _weights(route: Manifest) -> dict[str, float]:
    """Return what a route gives to each variant, in percent."""
    backends = route["spec"]["rules"][-1]["backendRefs"]
    return {backend["name"].split("--")[1].split("-")[0]: backend["weight"] / 100 for backend in backends}


def _gives(new: int, route: Manifest) -> bool:
    return _weights(route) == {"v1": 100 - new, "v2": new}


def _is_trained(manifest: Manifest) -> bool:
    return condition_of(manifest, "Complete").get("reason") == "Trained" and "model" in manifest["status"]


def _is_serving(manifest: Manifest) -> bool:
    return condition_of(manifest, "Ready").get("status") == "True"


def _path(plural: str) -> str:
    return f"/{PATHS[plural]}/namespaces/{NAMESPACE}/{plural}"
