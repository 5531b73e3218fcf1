"""Starts of a training, counted in its output folder, so that one that never gains a step is given up."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bloomery_trainer.engine.checkpoint import stored_steps
from bloomery_trainer.errors import BadConfig, PeerLost, TrainerError, Unavailable
from bloomery_trainer.output import timestamp
from bloomery_trainer.storage import Folder

logger = logging.getLogger(__name__)

ATTEMPTS = "attempts.json"
STARTS_WITHOUT_PROGRESS = 5

Attempt = dict[str, Any]
"""``time`` and ``step`` of a start; ``ended``, the last step, once that is stored.

``error``, with which the start ended.
"""


@contextmanager
def counted_start(output: Folder, *, has_steps: bool = True) -> Iterator[int]:
    """Count this start of a training, before its processes meet, and yield its number.

    Called by the leader. A lost peer or a store that is away ends it with an error, which is noted with the start.

    Raises:
        BadConfig: NoProgress, if the last STARTS_WITHOUT_PROGRESS starts gained no step. If no step is left to do, or
            there are none (a head that is fitted on features, an evaluation), only those count that ended with such an
            error: what has no checkpoints may be evicted any number of times.
    """
    attempts = read_attempts(output)
    step = max(stored_steps(output), default=0)
    ended = not has_steps or (bool(attempts) and attempts[-1].get("ended") == step)
    _require_progress(attempts, step, ended=ended)
    attempts.append({"time": timestamp(), "step": step, **({"ended": step} if ended else {})})
    _write(output, attempts)
    try:
        yield len(attempts)
    except (PeerLost, Unavailable) as error:
        _note(output, error=f"{error.reason}: {error}"[:500])
        raise


def note_ended(output: Folder, step: int) -> None:
    """Note that the state after the last step is stored: what follows is evaluation and export."""
    _note(output, ended=step)


def read_attempts(output: Folder) -> list[Attempt]:
    """Return all starts so far."""
    content = output.read_if_there(ATTEMPTS)
    attempts: list[Attempt] = json.loads(content) if content else []
    return attempts


def _require_progress(attempts: list[Attempt], step: int, *, ended: bool) -> None:
    recent = attempts[-STARTS_WITHOUT_PROGRESS:]
    stuck = len(recent) == STARTS_WITHOUT_PROGRESS and all(attempt["step"] == step for attempt in recent)
    errors = [str(attempt["error"]) for attempt in recent if attempt.get("error")]
    if not stuck or (ended and len(errors) < STARTS_WITHOUT_PROGRESS):
        return
    started = f"the training was started {STARTS_WITHOUT_PROGRESS} times at step {step}"
    advice = (
        f"{started} and what follows its steps never came to an end"
        if ended
        else f"{started} and ended each time before the next checkpoint; save more often (checkpoint.every) or see why "
        "its pods end"
    )
    cause = f"; the last error was: {errors[-1]}" if errors else ""
    raise BadConfig("NoProgress", f"{advice}{cause}")


def _note(output: Folder, **changes: Any) -> None:
    """Add to the last start; a store that is away costs only the note."""
    try:
        attempts = read_attempts(output)
        attempts[-1] |= changes
        _write(output, attempts)
    except TrainerError as error:
        logger.warning("the start could not be noted: %s", error)


def _write(output: Folder, attempts: list[Attempt]) -> None:
    output.write(ATTEMPTS, json.dumps(attempts, indent=1).encode())
