"""`make bench-memory`: the most memory that training each preset by defaults takes, beside its pod's limit.

It needs the cluster of `make cluster` and a folder of labelled photographs, one folder per class (FLOWERS=…). Each
preset trains as a pod with the default limit: STEPS=… optimizer steps (default 20), then the evaluation, the export
and the rest of the job. All steps of a recipe have the same size, so the peak of a longer run is the same.
PRESETS=resnet18,… names some presets only.

The figures are the pod's memory control group's, sampled every quarter of a second: `peak` is memory that the kernel
cannot take back (anonymous and shared), which is what a pod is killed for.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bloomery_operator.manifests.memory import MEMORY_LIMITS
from bloomery_operator.manifests.pod import size_in_bytes
from bloomery_trainer.models.presets import ALIASES
from dev import demo
from dev.paths import LOGS, ROOT
from dev.stages import run_stages, wait_until
from testing.cluster_store import put_files
from testing.dev_cluster import Kubectl

FLOWERS = Path(os.environ.get("FLOWERS") or ROOT.parent / "shared/data/flowers")
DATASET = "bench-flowers"
CONTROL_GROUPS = Path("/sys/fs/cgroup")
SAMPLE_SECONDS = 0.25
SAMPLES = 8
"""Samples between two looks at the objects: those take processor time from the training."""

LIMIT_SECONDS = 3600.0


@dataclass(frozen=True)
class Peak:
    """One preset's figures, in MiB and seconds."""

    preset: str
    phase: str
    limit: int
    peak: int
    seconds: float
    message: str


def main() -> None:
    """Print a row for each preset and, as the last line, one JSON object."""
    if not FLOWERS.is_dir():
        raise SystemExit(f"skipped: {FLOWERS} is missing; set FLOWERS to where the photographs are")
    presets = [name for name in (os.environ.get("PRESETS") or "").split(",") if name] or sorted(
        set(MEMORY_LIMITS) - set(ALIASES)
    )
    steps = int(os.environ.get("STEPS") or 20)
    LOGS.mkdir(parents=True, exist_ok=True)
    run_stages([stage for stage in demo.stages() if stage.name != "apply"])
    kubectl = Kubectl("default")
    _prepare_flowers(kubectl)
    print(f"{'preset':22}{'phase':10}{'peak':>8}{'limit':>8}  MiB{'seconds':>9}")
    peaks = []
    for preset in presets:
        peak = _train(kubectl, preset, steps)
        peaks.append(peak)
        print(
            f"{peak.preset:22}{peak.phase:10}{peak.peak:8}{peak.limit:8}     {peak.seconds:9.0f}  {peak.message}",
            flush=True,
        )
    print(json.dumps([asdict(peak) for peak in peaks], ensure_ascii=False))
    if any(peak.phase != "Complete" or peak.peak > peak.limit for peak in peaks):
        raise SystemExit("some presets did not train within their limit")


def _prepare_flowers(kubectl: Kubectl) -> None:
    uri = f"s3://bloomery/raw/{DATASET}"
    paths = [path for path in FLOWERS.rglob("*") if path.is_file()]
    put_files(uri, {path.relative_to(FLOWERS).as_posix(): path.read_bytes() for path in paths})
    _apply(kubectl, "Dataset", DATASET, {"source": {"uri": uri}})
    wait_until("The Dataset", lambda: _status(kubectl, "dataset", DATASET).get("phase") == "Ready", seconds=600)


def _train(kubectl: Kubectl, preset: str, steps: int) -> Peak:
    name = f"bench-memory-{preset}"
    kubectl("delete", "trainingjob", name, "--ignore-not-found", "--wait")
    spec = {"datasets": [{"name": DATASET}], "preset": preset, "hyperparameters": {"maxSteps": steps}}
    _apply(kubectl, "TrainingJob", name, spec)
    began = time.monotonic()
    peak = 0
    while (status := _status(kubectl, "trainingjob", name)).get("phase") not in {"Complete", "Failed"}:
        if time.monotonic() - began > LIMIT_SECONDS:
            raise SystemExit(f"{name} did not end within {LIMIT_SECONDS:.0f} s")
        groups = _pod_groups(kubectl, name)
        for _ in range(SAMPLES):
            peak = max(peak, *map(_used_bytes, groups), 0)
            time.sleep(SAMPLE_SECONDS)
    messages = "; ".join(condition.get("message", "") for condition in status.get("conditions", []))
    return Peak(
        preset=preset,
        phase=status["phase"],
        limit=size_in_bytes(MEMORY_LIMITS[preset]) >> 20,
        peak=peak >> 20,
        seconds=round(time.monotonic() - began, 1),
        message="" if status["phase"] == "Complete" else messages,
    )


def _status(kubectl: Kubectl, kind: str, name: str) -> dict[str, Any]:
    status: dict[str, Any] = kubectl.get(kind, name).get("status", {})
    return status


def _pod_groups(kubectl: Kubectl, job: str) -> list[Path]:
    """Return the control groups of the containers of the job's pods, of cgroup v1 or v2."""
    pods = kubectl.get("pods", "", f"--selector=bloomery.dev/trainingjob={job}")
    root = CONTROL_GROUPS / "memory" if (CONTROL_GROUPS / "memory").is_dir() else CONTROL_GROUPS
    groups = (root.glob(f"kubepods*/**/*{pod['metadata']['uid']}*/*/") for pod in pods)
    return [group for matches in groups for group in matches if group.is_dir()]


def _used_bytes(group: Path) -> int:
    try:
        lines = (line.split() for line in (group / "memory.stat").read_text().splitlines())
    except OSError:
        return 0  # the container has ended
    figures = {name: int(value) for name, value in lines}
    return figures["anon"] + figures["shmem"] if "anon" in figures else figures["rss"] + figures.get("shmem", 0)


def _apply(kubectl: Kubectl, kind: str, name: str, spec: dict[str, Any]) -> None:
    done = kubectl.apply(
        {"apiVersion": "bloomery.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
    )
    if done.returncode:
        raise SystemExit(done.stderr.strip())


if __name__ == "__main__":
    main()
