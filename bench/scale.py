"""`make bench-operator`: how the operator bears many objects, beside Kubeflow's; its last line is one JSON object.

The API server, etcd and the controllers of Kubernetes are real; nodes, pods and the gateway are played by kwok.
Each size has a control plane of its own. There Kubeflow's training-operator runs first, so that what it leaves
behind is ours to bear. Both get jobs of one pod that trains for the same few seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench import kubeflow, ours
from bench.kwok import TRAINING_SECONDS, leave_the_network, simulated_cluster
from bench.plot import Panel, write_plot
from dev import binaries
from dev.paths import LOGS, STATE
from tests.component.operator_fixtures import gateway_api_crds

SIZES = (100, 300, 1000)
SERVICES_PER_JOB = 0.3
OUTPUT = STATE / "bench" / "operator"


def measure(jobs: int, folder: Path, *, with_peer: bool) -> dict[str, Any]:
    """Measure one size on a control plane of its own."""
    services = round(jobs * SERVICES_PER_JOB)
    found: dict[str, Any] = {"jobs": jobs, "services": services}
    with simulated_cluster(folder) as cluster:
        if with_peer:
            found["trainingOperator"] = kubeflow.measure(cluster, jobs)
            print(f"  training-operator: {json.dumps(found['trainingOperator'])}", flush=True)
        found["bloomery"] = {}
        for name, figures in ours.measure(cluster, jobs, services):
            found["bloomery"][name] = figures
            print(f"  {name}: {json.dumps(figures)}", flush=True)
    if with_peer:
        rates = found["bloomery"]["jobs"]["perSecond"], found["trainingOperator"]["perSecond"]
        found["ofTrainingOperator"] = round(rates[0] / rates[1], 2)
    return found


def table(found: dict[str, Any]) -> Iterator[str]:
    """Yield a size's figures as lines for people."""
    mine = found["bloomery"]
    rows = {"TrainingJobs": mine["jobs"], "InferenceServices": mine["services"]}
    rows |= {"PyTorchJobs": found["trainingOperator"]} if "trainingOperator" in found else {}
    yield f"{found['jobs']} jobs, {found['services']} services"
    yield f"  {'':18} {'children s':>10} {'done s':>8} {'per s':>7} {'calls each':>10} {'CPU ms':>7} {'MiB':>6}"
    for name, row in rows.items():
        seconds = [value for key, value in row["seconds"].items() if key != "created"]
        figures = f"{row['perSecond']:>7.1f} {row['callsEach']:>10.1f} {row['cpuMillisecondsEach']:>7.1f}"
        yield f"  {name:18} {seconds[0]:>10.1f} {seconds[1]:>8.1f} {figures} {row['peakMiB']:>6.0f}"
    edits, rest, restart = mine["edits"], mine["rest"], mine["restart"]
    yield f"  edit to route  p50 {edits['p50']:.3f} s, p95 {edits['p95']:.3f} s, {edits['callsEach']:.1f} calls each"
    yield f"  rest           {rest['cpuSeconds']:.2f} s CPU and {rest['calls']} calls in {rest['seconds']:.0f} s"
    yield f"  restart        {restart['seconds']:.1f} s, {restart['cpuSeconds']:.1f} s CPU, {restart['calls']} calls"
    yield f"  peak memory    {mine['peakMiB']:.0f} MiB, and {restart['peakMiB']:.0f} MiB after the restart"


def draw(path: Path, sizes: Sequence[dict[str, Any]]) -> None:
    """Draw time, memory and calls against the number of jobs."""

    def line(*keys: str) -> list[tuple[float, float]]:
        points = []
        for found in sizes:
            value: Any = found
            for key in keys:
                value = value[key]
            points.append((float(found["jobs"]), float(value)))
        return points

    times = {
        "TrainingJobs done": line("bloomery", "jobs", "seconds", "done"),
        "InferenceServices serve": line("bloomery", "services", "seconds", "done"),
        "restart with all": line("bloomery", "restart", "seconds"),
    }
    calls = {
        "a TrainingJob": line("bloomery", "jobs", "callsEach"),
        "an InferenceService": line("bloomery", "services", "callsEach"),
    }
    memory = {"Bloomery": line("bloomery", "peakMiB")}
    if all("trainingOperator" in found for found in sizes):
        times["PyTorchJobs done"] = line("trainingOperator", "seconds", "done")
        calls["a PyTorchJob"] = line("trainingOperator", "callsEach")
        memory["training-operator"] = line("trainingOperator", "peakMiB")
    panels = [Panel("Seconds", times), Panel("Peak memory, MiB", memory), Panel("API calls of each object", calls)]
    write_plot(path, panels, x="jobs")


def build(*, with_peer: bool) -> None:
    """Get from the network what is needed of it: kwok and the peer are built once for a version."""
    gateway_api_crds()
    LOGS.mkdir(parents=True, exist_ok=True)
    with (LOGS / "bench-operator.log").open("a") as log:
        binaries.build_kwok(log)
        if with_peer:
            binaries.build_training_operator(log)


def main() -> None:
    """Measure the sizes that are asked for, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, nargs="+", default=SIZES, help="sizes; 100 jobs come with 30 services")
    parser.add_argument("--no-peer", action="store_true", help="only our own operator")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder for figures, plot and logs")
    options = parser.parse_args()
    print("building kwok and training-operator, the first time for minutes …", flush=True)
    build(with_peer=not options.no_peer)
    leave_the_network()
    results: dict[str, Any] = {"processors": len(os.sched_getaffinity(0)), "trainingSeconds": TRAINING_SECONDS}
    sizes = []
    for jobs in options.jobs:
        folder = options.output / str(jobs)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        sizes.append(measure(jobs, folder, with_peer=not options.no_peer))
        shutil.rmtree(folder / "etcd")
        print("\n".join(table(sizes[-1])), flush=True)
    results["sizes"] = sizes
    draw(options.output / "scale.svg", sizes)
    (options.output / "scale.json").write_text(json.dumps(results, indent=1))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
