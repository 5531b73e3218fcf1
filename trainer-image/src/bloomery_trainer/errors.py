"""Errors by who can fix them: the exit code is for Kubernetes, the sentence for people."""

from __future__ import annotations


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, at most 200 characters; without a message, its type."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


class TrainerError(Exception):
    """A failure with a sentence for people.

    Attributes:
        exit_code: of the process; 2 and 3 are permanent, 1 is tried again within the Job's backoffLimit.
        reason: CamelCase, for conditions.
    """

    exit_code = 1

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[TrainerError], tuple[str, str]]:
        """Allow pickling, so that it can come back from another process."""
        return type(self), (self.reason, str(self))


class BadConfig(TrainerError):
    """The configuration or the credentials are wrong; trying again cannot help."""

    exit_code = 2


class BadData(TrainerError):
    """The images are not what training needs; trying again cannot help."""

    exit_code = 3


class Unavailable(TrainerError):
    """Something outside did not answer; trying again may help."""

    exit_code = 1


class PeerLost(TrainerError):
    """Another process of the same training went away; all come back from the same checkpoint."""

    exit_code = 75
