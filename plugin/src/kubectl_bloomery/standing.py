"""How a TrainingJob stands, read from its status: pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kubectl_bloomery.kubectl import Manifest


@dataclass(frozen=True)
class Standing:
    """What people want to know of a TrainingJob at one moment.

    Attributes:
        phase: as ``kubectl get`` shows it; empty where no operator has seen the job yet.
        words: what it does, what it waits for, or how it ended.
        step: the steps done, of `total`; None before there are any.
    """

    phase: str
    words: str
    step: int | None = None
    total: int | None = None

    @property
    def complete(self) -> bool:
        """Whether it ended well."""
        return self.phase == "Complete"

    @property
    def failed(self) -> bool:
        """Whether it ended without a model."""
        return self.phase == "Failed"

    @property
    def line(self) -> str:
        """All of it in one line."""
        return f"{self.phase or 'Pending'}: {self.words}"


def standing(job: Manifest) -> Standing:
    """Return how a TrainingJob stands."""
    status: Mapping[str, Any] = job.get("status", {})
    said = {item["type"]: item for item in status.get("conditions", [])}
    progress = status.get("progress", {})
    for end in ("Failed", "Complete"):
        if said.get(end, {}).get("status") == "True":
            words = f"{said[end]['reason']}: {said[end]['message']}"
            return Standing(end, words, progress.get("step"), progress.get("totalSteps"))
    running = said.get("Running", {})
    if running.get("status") == "True":
        return Standing("Running", _figures(status), progress.get("step"), progress.get("totalSteps"))
    words = running.get("message") or _unseen(job)
    return Standing(status.get("phase", ""), words, progress.get("step"), progress.get("totalSteps"))


def _unseen(job: Manifest) -> str:
    manager = job["spec"].get("managedBy")
    return f"spec.managedBy leaves it to {manager}." if manager else "no operator has seen it yet."


def _figures(status: Mapping[str, Any]) -> str:
    progress = status.get("progress", {})
    shown = {
        "epoch": "epoch {}",
        "steps": "step {}",
        "imagesPerSecond": "{:.0f} images/s",
        "eta": "{} left",
        "loss": "loss {:.4g}",
    }
    figures = [form.format(progress[name]) for name, form in shown.items() if progress.get(name) is not None]
    if status.get("metric"):
        figures.append(str(status["metric"]))
    return ": ".join(filter(None, (progress.get("stage") or "training", ", ".join(figures))))
