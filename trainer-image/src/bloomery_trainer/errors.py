"""Errors by who can fix them: those of any task, and those of a training alone."""

from __future__ import annotations

from bloomery_model.task_errors import BadConfig as BadConfig
from bloomery_model.task_errors import BadData as BadData
from bloomery_model.task_errors import TaskError
from bloomery_model.task_errors import Unavailable as Unavailable

TrainerError = TaskError


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, at most 200 characters; without a message, its type."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


class PeerLost(TaskError):
    """Another process of the same training went away; all come back from the same checkpoint."""

    exit_code = 75
