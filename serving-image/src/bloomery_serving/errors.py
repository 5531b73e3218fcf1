"""What can go wrong, in words for the one who asked."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic_core import ErrorDetails

_MOST = 5
"""As many mistakes are told at once."""


class ModelError(Exception):
    """The model can not be served; ends the process. ``reason`` is CamelCase, the message a sentence."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class RequestError(Exception):
    """A request that can not be answered; ``status`` is HTTP's, ``code`` CamelCase, the message a sentence."""

    def __init__(self, status: int, code: str, message: str, *, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers or {}

    @property
    def document(self) -> dict[str, str]:
        """The error as the answer shows it."""
        return {"code": self.code, "message": self.message}


def name_fields(errors: Iterable[ErrorDetails], *, whole: str, skip: int = 0) -> str:
    """Say which fields pydantic refuses, and why.

    Args:
        whole: what the document is called where it has no fields at all.
        skip: how many parts before a field's own path are not worth telling.
    """
    told = [f"{'.'.join(map(str, e['loc'][skip:])) or whole}: {e['msg']}" for e in errors]
    return "; ".join(told[:_MOST])
