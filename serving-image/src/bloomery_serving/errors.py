"""The error that ends the server."""

from __future__ import annotations


class ModelError(Exception):
    """The model cannot be served; ends the process. ``reason`` is CamelCase, the message a sentence."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
