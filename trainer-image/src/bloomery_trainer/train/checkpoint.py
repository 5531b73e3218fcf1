"""Saved states of a training, so that a pod that went away costs no more than the steps since the last one.

A checkpoint is one file, written whole or not at all, and holds tensors and plain values only: it is loaded
without executing code.
"""

from __future__ import annotations

import json
import logging
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from bloomery_trainer.errors import BadConfig
from bloomery_trainer.storage import Folder

log = logging.getLogger(__name__)

FOLDER = "checkpoints"
ATTEMPTS = "attempts.json"
STARTS_WITHOUT_PROGRESS = 5
_FORMAT = 1
_NAME = re.compile(rf"^{FOLDER}/step-(\d{{9}})\.pt$")


@dataclass(frozen=True)
class Saved:
    """A checkpoint in the store."""

    step: int
    uri: str
    time: str

    def document(self) -> dict[str, Any]:
        """For the status of the job."""
        return {"step": self.step, "uri": self.uri, "time": self.time}


class Checkpoints:
    """The checkpoints of one output folder; at most `keep` of them stay."""

    def __init__(self, output: Folder, scratch: Path, *, keep: int, on_saved: Callable[[Saved], None]) -> None:
        self._output = output
        self._scratch = scratch
        self._keep = keep
        self._on_saved = on_saved

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Writes the state after `step` steps, then removes the oldest ones beyond the limit."""
        path = self._scratch / "checkpoint.pt"
        torch.save({"format": _FORMAT, "step": step, **state}, path)
        name = _name(step)
        self._output.upload(path, name)
        path.unlink()
        log.info("checkpoint saved at step %d", step)
        self._on_saved(Saved(step, f"{self._output.uri.rstrip('/')}/{name}", _now()))
        for old in sorted(self._steps())[: -self._keep]:
            self._output.delete(_name(old))

    def newest(self) -> dict[str, Any] | None:
        """The newest state that can be read, or None where there is none."""
        for step in sorted(self._steps(), reverse=True):
            path = self._scratch / "checkpoint.pt"
            self._output.download(_name(step), path)
            try:
                state = read(path, where=f"{self._output.uri}/{_name(step)}")
            except BadConfig as error:
                log.warning("%s; an older one is taken", error)
                continue
            finally:
                path.unlink()
            return state
        return None

    def _steps(self) -> list[int]:
        found = (_NAME.match(file.path) for file in self._output.list(FOLDER))
        return [int(match.group(1)) for match in found if match]


def read(path: Path, *, where: str) -> dict[str, Any]:
    """Reads a checkpoint or other saved weights, tensors and plain values only.

    Raises BadConfig where the file is something else; `where` names it for people.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise BadConfig(
            "InvalidCheckpoint", f"{where} is no checkpoint of PyTorch that can be read safely: {_first_line(error)}"
        ) from error
    if not isinstance(state, dict):
        raise BadConfig("InvalidCheckpoint", f"{where} holds no dictionary of weights")
    return state


def count_start(output: Folder, step: int) -> int:
    """Notes one more start of this training, at `step`, and returns how many there were.

    Raises BadConfig after STARTS_WITHOUT_PROGRESS starts that gained no step: the next one would not either.
    """
    content = output.read_if_there(ATTEMPTS)
    attempts: list[dict[str, Any]] = json.loads(content) if content else []
    recent = [attempt["step"] for attempt in attempts[-STARTS_WITHOUT_PROGRESS:]]
    if len(recent) == STARTS_WITHOUT_PROGRESS and set(recent) == {step}:
        raise BadConfig(
            "NoProgress",
            f"the training was started {STARTS_WITHOUT_PROGRESS} times at step {step} and ended each time before the "
            "next checkpoint; save more often (checkpoint.every) or see why its pods end",
        )
    attempts.append({"time": _now(), "step": step})
    output.write(ATTEMPTS, json.dumps(attempts, indent=1).encode())
    return len(attempts)


def _name(step: int) -> str:
    return f"{FOLDER}/step-{step:09}.pt"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
