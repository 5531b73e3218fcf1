"""Creates many objects in a simulated cluster, and measures how an operator finishes them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from bench.kwok import SimulatedCluster
from bench.observe import Manifest, Process, Processors, Watch
from testing.kubernetes_api import checked

PATIENCE_SECONDS = 400.0
_CREATORS = 4


@dataclass(frozen=True)
class Subject:
    """An operator that is measured: its process, and the namespace of the account that it asks with."""

    process: Process
    home: str


def create(cluster: SimulatedCluster, path: str, manifests: Iterable[Manifest]) -> None:
    """Create objects as fast as a few clients can."""
    with cluster.server.http() as client, ThreadPoolExecutor(_CREATORS) as pool:
        for answer in pool.map(lambda manifest: client.post(path, json=manifest), manifests):
            checked(answer)


def follow(
    cluster: SimulatedCluster,
    subject: Subject,
    path: str,
    manifests: list[Manifest],
    watches: Mapping[str, Watch],
) -> dict[str, Any]:
    """Create objects and wait until each watch has seen what belongs to all of them.

    Returns the times, the rates, what each object cost, and who kept the processors busy.
    """
    mark, cpu, count = cluster.calls.mark(), subject.process.cpu_seconds(), len(manifests)
    processors = Processors()
    with ExitStack() as stack:
        for watch in watches.values():
            stack.enter_context(watch.following())
        began = time.monotonic()
        create(cluster, path, manifests)
        times = {"created": time.monotonic() - began}
        for name, watch in watches.items():
            times[name] = watch.wait_for(count * watch.each, seconds=PATIENCE_SECONDS, process=subject.process) - began
        busy = processors.figures()
    calls = cluster.calls.since(mark, subject.home)
    return {
        "seconds": {name: round(seconds, 2) for name, seconds in times.items()},
        "perSecond": {name: round(count / times[name], 2) for name in watches},
        "callsEach": round(calls.total() / count, 2),
        "callsEachBy": {name: round(n / count, 2) for name, n in calls.most_common() if n / count >= 0.01},
        "cpuMillisecondsEach": round(1000 * (subject.process.cpu_seconds() - cpu) / count, 1),
        "peakMiB": subject.process.peak_mib(),
        "processors": busy,
    }
