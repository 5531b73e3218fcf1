"""Reads the dataset version that a termination message names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def version_folder(message: dict[str, Any]) -> Path:
    """Return the folder of the version."""
    return Path(str(message["uri"]).removeprefix("file://"))


def read_manifest(message: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest of the version."""
    document: dict[str, Any] = json.loads((version_folder(message) / "manifest.json").read_bytes())
    return document


def count_images(message: dict[str, Any]) -> dict[str, int]:
    """Return the number of images of each class."""
    return {c["name"]: c["train"] + c["validation"] + c["test"] for c in message["classes"]}


def count_split(message: dict[str, Any], split: str) -> int:
    """Return the number of images of a split."""
    return sum(int(entry[split]) for entry in message["classes"])


def ignored_reasons(message: dict[str, Any]) -> dict[str, str]:
    """Return the reason of each file in ignored.jsonl."""
    lines = (version_folder(message) / "ignored.jsonl").read_text(encoding="utf-8").splitlines()
    return {entry["key"]: entry["reason"] for entry in map(json.loads, lines)}


def list_sides(message: dict[str, Any]) -> dict[str, str]:
    """Return the split of each image by its digest."""
    lines = (version_folder(message) / "splits.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split() for line in lines)
