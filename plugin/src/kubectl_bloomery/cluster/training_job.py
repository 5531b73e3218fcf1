"""TrainingJobs and BatchPredictions: a summary of their status; copies of a TrainingJob for another training."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from kubectl_bloomery.cluster.kubectl import Manifest

_PROBLEMS_WHILE_RUNNING = ("SidecarRunning", "TrainerUnreachable")
"""Reasons of the condition Running that matter more than the progress."""
MAX_NAME_LENGTH = 40
"""Characters in a TrainingJob's name, at most."""


@dataclass(frozen=True)
class JobSummary:
    """The state of a TrainingJob, or of a BatchPrediction, at one moment.

    Attributes:
        phase: as ``kubectl get`` shows it; empty before an operator has seen the job.
        message: the current work, the reason for waiting, or the result.
        step: the number of finished steps, or files; None before the first report.
        total_steps: the number of all steps, or files; None before the first report.
    """

    phase: str
    message: str
    step: int | None = None
    total_steps: int | None = None

    @property
    def complete(self) -> bool:
        """Whether the job ended well."""
        return self.phase == "Complete"

    @property
    def failed(self) -> bool:
        """Whether the job ended without its result."""
        return self.phase == "Failed"

    @property
    def line(self) -> str:
        """Phase and message in one line."""
        return f"{self.phase or 'Pending'}: {self.message}"


def run_id(job: Manifest) -> str | None:
    """Return the MLflow run of a TrainingJob; None before there is one."""
    run: str | None = job.get("status", {}).get("mlflow", {}).get("runId")
    return run


def output_uri(job: Manifest) -> str | None:
    """Return the folder in the store with a TrainingJob's model and reports; None before there is one."""
    model: str | None = job.get("status", {}).get("model", {}).get("uri")
    return model.removesuffix("/model") if model else None


def summarise(job: Manifest) -> JobSummary:
    """Summarise the status of a TrainingJob or a BatchPrediction."""
    status: Mapping[str, Any] = job.get("status", {})
    conditions = {item["type"]: item for item in status.get("conditions", [])}
    step, total_steps = _count_steps(status)
    for end in ("Failed", "Complete"):
        if conditions.get(end, {}).get("status") == "True":
            message = f"{conditions[end]['reason']}: {conditions[end]['message']}"
            return JobSummary(end, message, step, total_steps)
    running = conditions.get("Running", {})
    if running.get("status") == "True":
        has_problem = running.get("reason") in _PROBLEMS_WHILE_RUNNING
        message = running["message"] if has_problem else _describe_progress(job)
        return JobSummary("Running", message, step, total_steps)
    message = running.get("message") or _explain_missing_status(job)
    return JobSummary(status.get("phase", ""), message, step, total_steps)


def _count_steps(status: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Return the number of finished steps, or files, and that of all."""
    if "total" in status:
        return status.get("images", 0) + status.get("ignoredFiles", 0), status["total"]
    progress = status.get("progress", {})
    return progress.get("step"), progress.get("totalSteps")


def _explain_missing_status(job: Manifest) -> str:
    manager = job["spec"].get("managedBy")
    return f"spec.managedBy leaves it to {manager}." if manager else "no operator has seen it yet."


def _describe_progress(job: Manifest) -> str:
    status: Mapping[str, Any] = job["status"]
    progress = status.get("progress", {})
    formats = {
        "epoch": "epoch {}",
        "steps": "step {}",
        "files": "{} files",
        "imagesPerSecond": "{:.0f} images/s",
        "eta": "{} left",
        "loss": "loss {:.4g}",
    }
    figures = [text.format(progress[name]) for name, text in formats.items() if progress.get(name) is not None]
    if status.get("metric"):
        figures.append(str(status["metric"]))
    stage = progress.get("stage") or ("predicting" if job.get("kind") == "BatchPrediction" else "training")
    return ": ".join(filter(None, (stage, ", ".join(figures))))


def next_name(name: str, existing: Collection[str]) -> str:
    """Return the first free name of the series ``flowers``, ``flowers-2``, ``flowers-3``."""
    match = re.fullmatch(r"(.+)-(\d{1,6})", name)
    stem, number = (match[1], int(match[2])) if match else (name, 1)
    while True:
        number += 1
        end = f"-{number}"
        candidate = stem[: MAX_NAME_LENGTH - len(end)].rstrip("-") + end
        if candidate not in existing:
            return candidate


def copy_job(old: Manifest, name: str) -> dict[str, Any]:
    """Return a new TrainingJob with the spec of an old one, whose model is the next version of the same model.

    Labels and annotations are not copied: they may belong to the tool that created the old job.
    """
    spec = copy.deepcopy(dict(old["spec"]))
    for field in ("stop", "suspend"):
        spec.pop(field, None)
    output = spec.setdefault("output", {})
    # A version label belongs to one version, and a folder to the checkpoints of one job.
    output.pop("versionLabel", None)
    output.setdefault("registeredModel", old["metadata"]["name"])
    for field in ("uri", "logUri"):
        if field in output:
            output[field] = _sibling_folder(output[field], old["metadata"]["name"], name)
    metadata = {"name": name, "namespace": old["metadata"]["namespace"]}
    return {"apiVersion": old["apiVersion"], "kind": old["kind"], "metadata": metadata, "spec": spec}


def _sibling_folder(uri: str, old: str, new: str) -> str:
    """Return a folder beside a folder: the new name replaces the old job's name, or is appended to another one."""
    parent, _, last = uri.rstrip("/").rpartition("/")
    return f"{parent}/{new}" if last == old else f"{parent}/{last}-{new}"
