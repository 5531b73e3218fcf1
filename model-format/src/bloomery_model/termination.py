"""The termination message of a container, which the operator reads once the pod has ended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LIMIT = 4096
"""Bytes that Kubernetes keeps of a termination message."""
_DEFAULT_PATH = "/dev/termination-log"
"""Kubernetes' default of ``terminationMessagePath``."""


def path_from(environment: Mapping[str, str]) -> Path:
    """Return the file of the message: ``TERMINATION_LOG``, or the one of a container."""
    return Path(environment.get("TERMINATION_LOG") or _DEFAULT_PATH)


def write(path: Path, message: Mapping[str, Any]) -> None:
    """Write the message for the kubelet; outside of a pod there is no such file in /dev, and nothing is written."""
    if path.exists() or path.parent != Path("/dev"):
        path.write_bytes(encode(message))


def failure(reason: str, message: str) -> dict[str, Any]:
    """Return the message of a run that failed; ``reason`` is CamelCase."""
    return {"error": {"reason": reason, "message": message}}


def encode(message: Mapping[str, Any]) -> bytes:
    """Return JSON of at most LIMIT bytes: lists lose their tail, then the error its end.

    Raises:
        ValueError: the message is too long and has neither.
    """
    cut: dict[str, Any] = {key: list(value) if isinstance(value, list) else value for key, value in message.items()}
    while len(encoded := _to_json(cut)) > LIMIT:
        lists = [value for value in cut.values() if isinstance(value, list) and value]
        if lists:
            longest = max(lists, key=lambda value: len(_to_json(value)))
            del longest[len(longest) - max(1, len(longest) // 20) :]
        elif "error" in cut:
            error = cut["error"]
            excess = len(encoded) - LIMIT
            start = error["message"].encode()[: -(excess + len("…".encode()))].decode(errors="ignore")
            cut["error"] = {**error, "message": f"{start}…"}
        else:
            raise ValueError("the message has neither a list nor an error that could be cut")
    return encoded


def _to_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
