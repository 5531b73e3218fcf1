"""`make bench-operator`: how the operator bears many objects, beside Kubeflow's; its last line is one JSON object.

The API server, etcd and the controllers of Kubernetes are real; nodes, pods and the gateway are played by kwok.
Each operator has at each size a control plane of its own, and gets jobs of one pod that trains for the same few
seconds. Who keeps the processors busy meanwhile says what bounds the rates: where they are not busy, a limit of
requests does.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import kubeflow, ours
from bench.kwok import TRAINING_SECONDS, SimulatedCluster, leave_the_network, simulated_cluster
from bench.plot import Panel, write_plot
from dev import binaries
from dev.paths import LOGS, STATE
from testing.gateway_api import gateway_api_crds

SIZES = (100, 300, 1000)
SERVICES_PER_JOB = 0.3
OUTPUT = STATE / "bench" / "operator"


def measure(jobs: int, folder: Path, *, with_peer: bool, rest: bool) -> dict[str, Any]:
    """Measure one size."""
    services = round(jobs * SERVICES_PER_JOB)
    result: dict[str, Any] = {"jobs": jobs, "services": services}
    if with_peer:
        result["trainingOperator"] = {}
        for name, program in kubeflow.PROGRAMS.items():
            with _own_cluster(folder / f"training-operator-{name}") as cluster:
                result["trainingOperator"][name] = kubeflow.measure(cluster, jobs, program)
            print(f"  training-operator, {name}: {json.dumps(result['trainingOperator'][name])}", flush=True)
    result["bloomery"] = {}
    with _own_cluster(folder / "bloomery") as cluster:
        for name, figures in ours.measure(cluster, jobs, services, rest=rest):
            result["bloomery"][name] = figures
            print(f"  {name}: {json.dumps(figures)}", flush=True)
    if with_peer:
        rates = result["bloomery"]["jobs"]["perSecond"]
        result["ofTrainingOperator"] = {
            name: {what: round(rates[what] / rate, 2) for what, rate in peer["perSecond"].items()}
            for name, peer in result["trainingOperator"].items()
        }
    return result


@contextmanager
def _own_cluster(folder: Path) -> Iterator[SimulatedCluster]:
    """Run a control plane in a new folder, where only its logs stay."""
    folder.mkdir(parents=True)
    with simulated_cluster(folder) as cluster:
        yield cluster
    shutil.rmtree(folder / "etcd")


def table(result: dict[str, Any]) -> Iterator[str]:
    """Yield a size's figures as lines for people."""
    mine = result["bloomery"]
    rows = {"TrainingJobs": mine["jobs"], "InferenceServices": mine["services"]}
    rows |= {f"PyTorchJobs, {name}": row for name, row in result.get("trainingOperator", {}).items()}
    yield f"{result['jobs']} jobs, {result['services']} services"
    for name, row in rows.items():
        times = ", ".join(
            f"{what} {row['seconds'][what]:.1f} s ({rate:.1f}/s)" for what, rate in row["perSecond"].items()
        )
        yield f"  {name:22} {times}"
        costs = (
            f"{row['callsEach']:.1f} calls and {row['cpuMillisecondsEach']:.1f} ms CPU each, {row['peakMiB']:.0f} MiB"
        )
        yield f"  {'':22} {costs}; {_busy(row)}"
    for name, ratios in result.get("ofTrainingOperator", {}).items():
        yield f"  {'of PyTorchJobs, ' + name:22} {', '.join(f'{what} {ratio:.2f}' for what, ratio in ratios.items())}"
    yield from _table_of_life(mine)


def _table_of_life(mine: dict[str, Any]) -> Iterator[str]:
    """Yield what our operator does once all is there."""
    edits, rest, restart = mine["edits"], mine.get("rest"), mine["restart"]
    times = f"p50 {edits['p50']:.3f} s, p95 {edits['p95']:.3f} s"
    yield f"  {'edit to route':22} {times}, {edits['callsEach']:.1f} calls each; {_busy(edits)}"
    if rest:
        used = f"{rest['cpuSeconds']:.2f} s CPU and {rest['calls']} calls in {rest['seconds']:.0f} s"
        yield f"  {'rest, with a resync':22} {used}; {_busy(rest)}"
    used = f"{restart['seconds']:.1f} s, {restart['cpuSeconds']:.1f} s CPU, {restart['calls']} calls"
    yield f"  {'restart':22} {used}; {_busy(restart)}"
    yield f"  {'peak memory':22} {mine['peakMiB']:.0f} MiB, and {restart['peakMiB']:.0f} MiB after the restart"


def _busy(row: dict[str, Any]) -> str:
    processors = row["processors"]
    most = processors["most"]
    return f"processors {processors['busy']:.0%} busy, most by {most} ({processors['each'].get(most, 0.0):.2f})"


def unsettled(sizes: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield where a restart did not leave everything as it was, in sentences."""
    for result in sizes:
        restart = result["bloomery"]["restart"]
        if restart["errors"] or restart["changedStatuses"]:
            changed = restart["changedStatuses"]
            names = f", such as {changed[0]}" if changed else ""
            yield (
                f"With {result['jobs']} jobs, {restart['errors']} reconciles failed after the restart, and "
                f"{len(changed)} statuses changed{names}."
            )


def draw(path: Path, sizes: Sequence[dict[str, Any]]) -> None:
    """Draw time, memory and calls against the number of jobs."""

    def line(*keys: str) -> list[tuple[float, float]]:
        points = []
        for result in sizes:
            value: Any = result
            for key in keys:
                value = value[key]
            points.append((float(result["jobs"]), float(value)))
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
    if all("trainingOperator" in result for result in sizes):
        for name in kubeflow.PROGRAMS:
            times[f"PyTorchJobs done, {name}"] = line("trainingOperator", name, "seconds", "done")
        calls["a PyTorchJob"] = line("trainingOperator", "defaults", "callsEach")
        memory["training-operator"] = line("trainingOperator", "defaults", "peakMiB")
    panels = [Panel("Seconds", times), Panel("Peak memory, MiB", memory), Panel("API calls of each object", calls)]
    write_plot(path, panels, x="jobs")


def build(*, with_peer: bool) -> None:
    """Get from the network what is needed of it: kwok and the peer are built once for a version."""
    gateway_api_crds()
    LOGS.mkdir(parents=True, exist_ok=True)
    with (LOGS / "bench-operator.log").open("a") as log:
        binaries.build_kwok(log)
        if with_peer:
            kubeflow.build(log)


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
        is_largest = jobs == max(options.jobs)
        sizes.append(measure(jobs, folder, with_peer=not options.no_peer, rest=is_largest))
        print("\n".join(table(sizes[-1])), flush=True)
    results["sizes"] = sizes
    draw(options.output / "scale.svg", sizes)
    (options.output / "scale.json").write_text(json.dumps(results, indent=1))
    print(json.dumps(results), flush=True)
    sys.exit(" ".join(unsettled(sizes)) or 0)


if __name__ == "__main__":
    main()
