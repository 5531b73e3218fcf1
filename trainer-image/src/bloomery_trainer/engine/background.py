"""Writing states of a training from a thread, the newest one first, while training goes on."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from bloomery_trainer.errors import TrainerError

logger = logging.getLogger(__name__)

_RETRY_SECONDS = 2.0

State = Mapping[str, Any]
Write = Callable[[int, State], None]


def host_copy(state: State) -> dict[str, Any]:
    """Return a copy of a nested state whose tensors are on the host and shared with nobody.

    What lies under ``best`` stays as it is: those are copies already, which are replaced and never changed.
    """
    return {key: value if key == "best" else _copy(value) for key, value in state.items()}


def _copy(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copy(item) for item in value)
    return value


class BackgroundWriter:
    """Calls ``write`` with the newest state, one at a time, in a thread of its own.

    An error of the store or the disk is a warning; the state is kept until a newer one comes, for ``close``.
    """

    def __init__(self, write: Write) -> None:
        self._write = write
        self._condition = threading.Condition()
        self._waiting: tuple[int, State] | None = None
        self._failed: tuple[int, State] | None = None
        self._busy = False

    def put(self, step: int, state: State) -> None:
        """Take a state in place of one that still waits, and return at once."""
        with self._condition:
            self._waiting, self._failed = (step, state), None
            if not self._busy:
                self._busy = True
                threading.Thread(target=self._run, name="checkpoint", daemon=True).start()

    def close(self, *, seconds: float) -> bool:
        """Wait for the writing under way; the last state, if it failed, is tried again for so many seconds.

        Returns whether the last state was written.
        """
        deadline = time.monotonic() + seconds
        while True:
            with self._condition:
                self._condition.wait_for(lambda: not self._busy)
                failed = self._failed
            if failed is None:
                return True
            if time.monotonic() + _RETRY_SECONDS > deadline:
                return False
            time.sleep(_RETRY_SECONDS)
            self.put(*failed)

    def _run(self) -> None:
        while True:
            with self._condition:
                item, self._waiting = self._waiting, None
                if item is None:
                    self._busy = False
                    self._condition.notify_all()
                    return
            written = self._attempt(*item)
            with self._condition:
                if not written and self._waiting is None:
                    self._failed = item

    def _attempt(self, step: int, state: State) -> bool:
        try:
            self._write(step, state)
        except (TrainerError, OSError) as error:
            logger.warning("the checkpoint of step %d could not be saved: %s; training goes on", step, error)
            return False
        except Exception:
            logger.exception("the checkpoint of step %d could not be saved", step)
            return False
        return True
