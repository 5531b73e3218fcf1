"""Saved states of a training, so that a pod that went away costs no more than the steps since the last one.

A checkpoint is one file, written whole or not at all, and holds tensors and plain values only: it is loaded
without executing code.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bloomery_trainer.distributed.world import World
from bloomery_trainer.engine.background import BackgroundWriter, host_copy
from bloomery_trainer.errors import BadConfig, Unavailable, first_line
from bloomery_trainer.output import CHECKPOINTS, timestamp
from bloomery_trainer.storage import Folder

logger = logging.getLogger(__name__)

FORMAT = 2
"""Of the state in a checkpoint; a trainer resumes from its own format only."""
_NAME = re.compile(rf"^{CHECKPOINTS}/step-(\d{{9}})\.pt$")
_DIGEST = ".sha256"


@dataclass(frozen=True)
class Saved:
    """A checkpoint in the store."""

    step: int
    uri: str
    time: str

    def document(self) -> dict[str, Any]:
        """Return the document for the status of the job."""
        return {"step": self.step, "uri": self.uri, "time": self.time}


class Checkpoints:
    """The checkpoints of one output folder; at most ``keep`` of them stay.

    They are written by a thread while training goes on. A store that does not answer costs a warning and the next
    state is tried; only ``close`` waits. Beside each file lies its sha256, for a file cut short or changed in the store
    may still load.
    """

    def __init__(self, output: Folder, scratch: Path, *, keep: int, on_saved: Callable[[Saved], None]) -> None:
        self._output = output
        self._scratch = scratch
        self._keep = keep
        self._on_saved = on_saved
        self._writer = BackgroundWriter(self._write)

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Take a copy of the state after ``step`` steps and return; the copy is written soon.

        A state that still waits for the one before it to be written is replaced by the new one.
        """
        self._writer.put(step, host_copy(state))

    def close(self, *, seconds: float) -> bool:
        """Wait until the last state is written, and try again for so many seconds if it could not be.

        Returns whether it is written.
        """
        return self._writer.close(seconds=seconds)

    def newest(self, world: World) -> dict[str, Any] | None:
        """Return the newest state that can be read, the same on all processes, or None if there is none.

        The leader chooses; on each other node, one process downloads that very file.

        Raises:
            Unavailable: it is another one by then.
        """
        path = self._scratch / "checkpoint.pt"
        state: dict[str, Any] | None = None

        def choose() -> _File | None:
            nonlocal state
            file, state = self._newest_readable(path)
            return file

        file = world.broadcast(choose)
        if file is None:
            return None
        if world.local_rank == 0 and not world.is_leader:
            self._fetch(file, path)
        world.barrier()
        if state is None:
            state = read_checkpoint(path, where=self._address(file.step))
        world.barrier()
        if world.local_rank == 0:
            path.unlink()
        return state

    def _newest_readable(self, path: Path) -> tuple[_File | None, dict[str, Any] | None]:
        """Return the newest file that is whole, which then lies at ``path``, and the state in it."""
        for step in sorted(stored_steps(self._output), reverse=True):
            digest = self._output.download(_file_name(step), path)
            try:
                return _File(step, digest), self._verified(step, path, digest)
            except BadConfig as error:
                logger.warning("%s; an older one is taken", error)
                path.unlink()
        return None, None

    def _verified(self, step: int, path: Path, digest: str) -> dict[str, Any]:
        recorded = self._output.read_if_there(f"{_file_name(step)}{_DIGEST}")
        if recorded is not None and recorded.decode(errors="replace").strip() != digest:
            raise BadConfig("InvalidCheckpoint", f"{self._address(step)} is damaged: its sha256 is {digest}")
        return read_checkpoint(path, where=self._address(step))

    def _fetch(self, file: _File, path: Path) -> None:
        if self._output.download(_file_name(file.step), path) != file.sha256:
            raise Unavailable("CheckpointChanged", f"{self._address(file.step)} is not what another node has read")

    def _write(self, step: int, state: Mapping[str, Any]) -> None:
        path = self._scratch / "saving.pt"
        torch.save({"format": FORMAT, "step": step, **state}, path)
        name = _file_name(step)
        # The digest first: a file with none beside it is one that an earlier release wrote.
        self._output.write(f"{name}{_DIGEST}", _sha256(path).encode())
        self._output.upload(path, name)
        path.unlink()
        logger.info("checkpoint saved at step %d", step)
        self._on_saved(Saved(step, f"{self._output.uri.rstrip('/')}/{name}", timestamp()))
        # Later steps are of files that could not be read when training resumed: they take no other's place.
        for old in sorted(stored for stored in stored_steps(self._output) if stored <= step)[: -self._keep]:
            self._output.delete(_file_name(old))
            self._output.delete(f"{_file_name(old)}{_DIGEST}")

    def _address(self, step: int) -> str:
        return f"{self._output.uri.rstrip('/')}/{_file_name(step)}"


@dataclass(frozen=True)
class _File:
    """A checkpoint by its step and the hex sha256 of its content."""

    step: int
    sha256: str


def stored_steps(output: Folder) -> list[int]:
    """Return the steps of the checkpoints in an output folder, in no order."""
    matches = (_NAME.match(file.path) for file in output.list(CHECKPOINTS))
    return [int(match.group(1)) for match in matches if match]


def weights_digest(model: nn.Module) -> str:
    """Return the first 16 hex digits of the sha256 over a model's parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def read_checkpoint(path: Path, *, where: str) -> dict[str, Any]:
    """Read a checkpoint or other saved weights, tensors and plain values only.

    Raises:
        BadConfig: the file is something else; ``where`` names it for people.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise BadConfig(
            "InvalidCheckpoint", f"{where} is no checkpoint of PyTorch that can be read safely: {first_line(error)}"
        ) from error
    if not isinstance(state, dict):
        raise BadConfig("InvalidCheckpoint", f"{where} holds no dictionary of weights")
    return state


def _file_name(step: int) -> str:
    return f"{CHECKPOINTS}/step-{step:09}.pt"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
