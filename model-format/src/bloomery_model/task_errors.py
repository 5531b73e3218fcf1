"""Errors of a task by who can fix them: the exit code is for Kubernetes, the sentence for people."""

from __future__ import annotations


class TaskError(Exception):
    """A failure with a sentence for people.

    Attributes:
        exit_code: of the process; 2 and 3 are permanent, 1 is tried again within the Job's backoffLimit.
        reason: CamelCase, for conditions.
    """

    exit_code = 1

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[TaskError], tuple[str, str]]:
        """Allow pickling, so that it can come back from another process."""
        return type(self), (self.reason, str(self))


class BadConfig(TaskError):
    """The configuration or the credentials are wrong; trying again cannot help."""

    exit_code = 2


class BadData(TaskError):
    """The images are not what the task needs; trying again cannot help."""

    exit_code = 3


class Unavailable(TaskError):
    """Something outside did not answer; trying again may help."""

    exit_code = 1
