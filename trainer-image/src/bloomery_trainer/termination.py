"""The last message of the container: what the operator reads once the pod has ended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LIMIT = 4096
"""Bytes that Kubernetes keeps of a termination message."""


def write(path: Path, message: Mapping[str, Any]) -> None:
    """Writes the message where the kubelet looks; outside of a pod there is no such file, and that is fine."""
    if path.exists() or path.parent != Path("/dev"):
        path.write_bytes(encode(message))


def failure(reason: str, message: str) -> dict[str, Any]:
    """The message of a run that did not end well."""
    return {"error": {"reason": reason, "message": message}}


def encode(message: Mapping[str, Any]) -> bytes:
    """JSON of at most LIMIT bytes: lists lose their tail, then the error its end."""
    cut: dict[str, Any] = {key: list(value) if isinstance(value, list) else value for key, value in message.items()}
    while len(encoded := _json(cut)) > LIMIT:
        lists = [value for value in cut.values() if isinstance(value, list) and value]
        if lists:
            longest = max(lists, key=lambda value: len(_json(value)))
            del longest[len(longest) - max(1, len(longest) // 20) :]
        elif "error" in cut:
            error = cut["error"]
            excess = len(encoded) - LIMIT
            kept = error["message"].encode()[: -(excess + len("…".encode()))].decode(errors="ignore")
            cut["error"] = {**error, "message": kept + "…"}
        else:
            raise ValueError("the message has nothing that could be cut")
    return encoded


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
