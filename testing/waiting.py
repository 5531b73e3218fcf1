"""Waiting for a condition."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import pytest

T = TypeVar("T")
TIMEOUT_SECONDS = 20.0


def eventually(probe: Callable[[], T], what: str | Callable[[], str], *, seconds: float = TIMEOUT_SECONDS) -> T:
    """Call the probe until its result is true; return the result."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        result = probe()
        if result:
            return result
        time.sleep(0.1)
    pytest.fail(f"not within {seconds:.0f} s: {what if isinstance(what, str) else what()}")
