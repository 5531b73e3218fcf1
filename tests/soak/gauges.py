"""Gauges of the soak test: actions and faults with their times, usage of processes, and owners of objects."""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from testing.dev_cluster import OPERATOR, Kubectl, read_metrics

LEASE = "bloomery-operator"
OWNERS = "datasets,trainingjobs,inferenceservices,batchpredictions,retrainings"
MORE_FILES, MORE_THREADS = 10, 8
"""The allowed growth of a process: connections kept alive, a pool of threads not used before."""
MORE_MEMORY, ENOUGH_SAMPLES = 0.15, 12
"""The relative growth that is a leak, and the number of samples that separate growth from noise."""
CHILDREN = (
    "jobs,pods,deployments,replicasets,services,endpointslices,configmaps,secrets,"
    "httproutes,backendtrafficpolicies,horizontalpodautoscalers,poddisruptionbudgets"
)

# The operator's /metrics say nothing of its process, so it is read where ps reads it, in the container.
_READ_PROCESSES = """
import json, os
memory = files = threads = 0
for pid in filter(str.isdigit, os.listdir("/proc")):
    if int(pid) != os.getpid():
        status = dict(line.split(":", 1) for line in open(f"/proc/{pid}/status"))
        memory += int(status.get("VmRSS", "0 kB").split()[0]) / 1024
        files += len(os.listdir(f"/proc/{pid}/fd"))
        threads += int(status["Threads"])
print(json.dumps({"memory": round(memory, 1), "files": files, "threads": threads}))
"""


@dataclass(frozen=True)
class Usage:
    """Resources of a pod's processes: resident MiB, open files, threads."""

    memory: float
    files: int
    threads: int


@dataclass
class Record:
    """Actions, durations and errors; users and faults write it side by side."""

    counts: Counter[str] = field(default_factory=Counter)
    seconds: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    problems: list[str] = field(default_factory=list)
    faults: list[tuple[float, float, str]] = field(default_factory=list)
    """From when until when (as time.time() has it), and what."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what: str, number: int = 1) -> None:
        with self._lock:
            self.counts[what] += number

    def took(self, what: str, seconds: float) -> None:
        with self._lock:
            self.seconds[what].append(seconds)

    def problem(self, sentence: str) -> None:
        with self._lock:
            self.problems.append(sentence)
        print(f"        WRONG: {sentence}", flush=True)

    def meanwhile(self, moment: float) -> str:
        """Return the faults that were active at a moment, or shortly before."""
        return ", ".join(what for began, ended, what in self.faults if began <= moment <= ended + 15) or "no fault"

    def percentiles(self) -> dict[str, dict[str, float]]:
        """Return the durations of each action, in seconds."""
        return {
            what: {
                "count": len(taken),
                "p50": round(statistics.median(taken), 1),
                "p95": round(sorted(taken)[round(0.95 * (len(taken) - 1))], 1),
            }
            for what, taken in self.seconds.items()
        }

    @contextmanager
    def fault(self, what: str) -> Iterator[None]:
        """Note when something was done to the system, until it had come back."""
        began = time.time()
        try:
            yield
        except Exception as error:  # record any error: it must not end the faults unnoticed
            self.problem(f"{what}: {error!r}")
        finally:
            with self._lock:
                self.faults.append((began, time.time(), what))


def usage_of(kubectl: Kubectl, pod: str) -> Usage | None:
    """Return the resources of a pod's processes; None where it is gone or about to go."""
    done = kubectl.run("exec", pod, "--", "python", "-c", _READ_PROCESSES, check=False)
    return Usage(**json.loads(done.stdout)) if done.returncode == 0 else None


class Watched:
    """Usage over time of the pod in one role; a replacement starts a new series."""

    def __init__(self, kubectl: Kubectl, what: str, find: Callable[[], str | None]) -> None:
        self.what = what
        self._kubectl = kubectl
        self._find = find
        self._samples: list[tuple[str, Usage]] = []

    def read(self) -> Usage | None:
        """Take a sample; None where there is no pod."""
        pod = self._find()
        usage = usage_of(self._kubectl, pod) if pod else None
        if pod and usage:
            self._samples.append((pod, usage))
        return usage

    @property
    def life(self) -> list[Usage]:
        """The samples of the last pod."""
        return [usage for pod, usage in self._samples if pod == self._samples[-1][0]]

    @property
    def growth(self) -> float | None:
        """The share by which its memory grew from the second to the last quarter of its life; None if it was short."""
        before, after = self._quarters(lambda usage: usage.memory)
        return None if len(self.life) < ENOUGH_SAMPLES else round(after / before - 1, 3)

    def _quarters(self, value: Callable[[Usage], float]) -> tuple[float, float]:
        """Return the medians of the second and the last quarter of its life.

        The first quarter does not count: a process warms up, and the gateway keeps connections from a slow moment.
        """
        values, quarter = list(map(value, self.life)), max(1, len(self.life) // 4)
        return statistics.median(values[quarter : 2 * quarter] or values), statistics.median(values[-quarter:])

    def figures(self) -> dict[str, Any]:
        """The first, the middle and the last sample, and what was watched of the last pod."""
        chosen = {"start": 0, "middle": len(self._samples) // 2, "end": -1}
        samples = {name: asdict(self._samples[at][1]) for name, at in chosen.items()}
        return samples | {"samplesOfLastPod": len(self.life), "growth": self.growth}

    def leaks(self) -> list[str]:
        """Return sentences about resources that grew and should not have."""
        last, leaks = self._samples[-1][1], []
        if self.growth is not None and self.growth > MORE_MEMORY:
            leaks.append(f"memory of {self.what} grew by {self.growth:.0%}, to {last.memory:.0f} MiB")
        (files, more_files), (threads, more_threads) = map(
            self._quarters, (lambda usage: usage.files, lambda usage: usage.threads)
        )
        if more_files > files + MORE_FILES:
            leaks.append(f"{self.what} had {files:.0f} open files and has {more_files:.0f}")
        if more_threads > threads + MORE_THREADS:
            leaks.append(f"{self.what} had {threads:.0f} threads and has {more_threads:.0f}")
        return leaks


def running_pods(kubectl: Kubectl, selector: str, *, ready: bool = False) -> list[str]:
    """Names of pods that run, or even are ready, and are not being deleted; the eldest first."""

    def counts(pod: dict[str, Any]) -> bool:
        is_ready = any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))
        is_running = pod["status"].get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]
        return is_running and (is_ready or not ready)

    pods = [pod["metadata"] for pod in kubectl.get("pods", "", f"--selector={selector}") if counts(pod)]
    return [pod["name"] for pod in sorted(pods, key=lambda pod: (pod["creationTimestamp"], pod["name"]))]


def leader(system: Kubectl) -> str | None:
    """The operator's pod that works, by the Lease; None while there is none."""
    holder = system.run("get", "lease", LEASE, "--output=jsonpath={.spec.holderIdentity}", check=False).stdout
    pod = holder.partition("_")[0]
    return pod if pod in running_pods(system, OPERATOR) else None


def restarts(kubectl: Kubectl, selector: str) -> int:
    """Return the number of restarts of containers that ended by themselves."""
    pods = kubectl.get("pods", "", f"--selector={selector}")
    return sum(status["restartCount"] for pod in pods for status in pod["status"].get("containerStatuses", []))


def count_objects(kubectl: Kubectl, kinds: str) -> Counter[str]:
    """Return the number of objects of each kind."""
    return Counter(item["kind"] for item in kubectl.get(kinds))


def orphans(kubectl: Kubectl) -> list[str]:
    """Objects whose owners are all gone, and those that the operator made and nobody owns."""
    items = kubectl.get(f"{OWNERS},{CHILDREN}")
    there = {item["metadata"]["uid"] for item in items}
    owners = set(OWNERS.split(","))

    def is_orphan(item: dict[str, Any]) -> bool:
        metadata = item["metadata"]
        ours = metadata.get("labels", {}).get("app.kubernetes.io/managed-by") == "bloomery"
        named = [reference["uid"] for reference in metadata.get("ownerReferences", [])]
        return not there & set(named) if named else ours and f"{item['kind'].lower()}s" not in owners

    return [f"{item['kind']} {item['metadata']['name']}" for item in items if is_orphan(item)]


def operator_metric(system: Kubectl, pod: str, name: str) -> float:
    """The sum of one of the operator's metrics over its labels."""
    lines = read_metrics(system, pod, port=8080).splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.partition("{")[0].partition(" ")[0] == name)
