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
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bloomery_operator.manifests.memory import MEMORY_LIMITS
from dev import demo
from dev.paths import LOGS, ROOT, target
from dev.stages import run_stages, wait_until

FLOWERS = Path(os.environ.get("FLOWERS") or ROOT.parent / "shared/data/flowers")
NAMESPACE = "default"
ALIASES = frozenset({"general", "high-precision", "high-performance"})
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
        set(MEMORY_LIMITS) - ALIASES
    )
    steps = int(os.environ.get("STEPS") or 20)
    run_stages([stage for stage in demo.stages() if stage.name != "apply"])
    _prepare_flowers()
    print(f"{'preset':22}{'phase':10}{'peak':>8}{'limit':>8}  MiB{'seconds':>9}")
    peaks = []
    for preset in presets:
        peak = _train(preset, steps)
        peaks.append(peak)
        print(
            f"{peak.preset:22}{peak.phase:10}{peak.peak:8}{peak.limit:8}     {peak.seconds:9.0f}  {peak.message}",
            flush=True,
        )
    print(json.dumps([asdict(peak) for peak in peaks], ensure_ascii=False))
    if any(peak.phase != "Complete" or peak.peak > peak.limit for peak in peaks):
        raise SystemExit("some presets did not train within their limit")


def _prepare_flowers() -> None:
    LOGS.mkdir(parents=True, exist_ok=True)
    with (LOGS / "bench-memory.log").open("a") as log:
        keys = demo.secret("bloomery-storage")
        with demo.reachable(keys["AWS_ENDPOINT_URL"], log) as endpoint:
            subprocess.run(
                [demo.PYTHON, demo.EXAMPLE / "upload.py", FLOWERS, "s3://bloomery/raw/bench-flowers"],
                env={**os.environ, **keys, "AWS_ENDPOINT_URL": endpoint},
                stdout=log,
                check=True,
            )
    _apply("Dataset", "bench-flowers", {"source": {"uri": "s3://bloomery/raw/bench-flowers"}})
    wait_until("The Dataset", lambda: _get("dataset", "bench-flowers")["status"]["phase"] == "Ready", seconds=600)


def _train(preset: str, steps: int) -> Peak:
    name = f"bench-memory-{preset}"
    _kubectl("delete", "trainingjob", name, "--ignore-not-found", "--wait")
    spec = {"datasets": [{"name": "bench-flowers"}], "preset": preset, "hyperparameters": {"maxSteps": steps}}
    _apply("TrainingJob", name, spec)
    began = time.monotonic()
    peak = limit = 0
    while (item := _get("trainingjob", name))["status"]["phase"] not in {"Complete", "Failed"}:
        if time.monotonic() - began > LIMIT_SECONDS:
            raise SystemExit(f"{name} did not end within {LIMIT_SECONDS:.0f} s")
        groups = _pod_groups(name)
        for _ in range(SAMPLES):
            peak = max(peak, *map(_used_bytes, groups), 0)
            limit = max(limit, *map(_limit_bytes, groups), 0)
            time.sleep(SAMPLE_SECONDS)
    status = item["status"]
    conditions = "; ".join(condition.get("message", "") for condition in status.get("conditions", []))
    return Peak(
        preset=preset,
        phase=status["phase"],
        limit=limit >> 20,
        peak=peak >> 20,
        seconds=round(time.monotonic() - began, 1),
        message="" if status["phase"] == "Complete" else conditions,
    )


def _get(kind: str, name: str) -> dict[str, Any]:
    item: dict[str, Any] = json.loads(_kubectl("get", kind, name, "--output=json"))
    item.setdefault("status", {}).setdefault("phase", "Pending")
    return item


def _pod_groups(job: str) -> list[Path]:
    """The control groups of the containers of the job's pods, of cgroup v1 or v2."""
    uids = _kubectl(
        "get", "pods", f"--selector=bloomery.dev/trainingjob={job}", "--output=jsonpath={.items[*].metadata.uid}"
    ).split()
    root = CONTROL_GROUPS / "memory" if (CONTROL_GROUPS / "memory").is_dir() else CONTROL_GROUPS
    return [group for uid in uids for group in root.glob(f"kubepods*/**/*{uid}*/*/") if group.is_dir()]


def _used_bytes(group: Path) -> int:
    try:
        lines = (line.split() for line in (group / "memory.stat").read_text().splitlines())
    except OSError:
        return 0  # the container has ended
    figures = {name: int(value) for name, value in lines}
    return figures["anon"] + figures["shmem"] if "anon" in figures else figures["rss"] + figures.get("shmem", 0)


def _limit_bytes(group: Path) -> int:
    for name in ("memory.max", "memory.limit_in_bytes"):
        try:
            text = (group / name).read_text().strip()
        except OSError:
            continue
        return int(text) if text.isdigit() and int(text) < 2**50 else 0
    return 0


def _apply(kind: str, name: str, spec: dict[str, Any]) -> None:
    manifest = {"apiVersion": "bloomery.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
    _kubectl("apply", "--filename=-", text=json.dumps(manifest))


def _kubectl(*words: str, text: str | None = None) -> str:
    command = [demo.tool("kubectl"), f"--namespace={NAMESPACE}", *words]
    done = subprocess.run(command, env=target().environment, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"kubectl {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
