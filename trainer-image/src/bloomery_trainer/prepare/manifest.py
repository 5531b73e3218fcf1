"""The manifest of a dataset version: written last, so that a version with a manifest is a whole one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from bloomery_trainer.config import PrepareConfig
from bloomery_trainer.prepare.file_table import Ignored
from bloomery_trainer.prepare.layouts import SPLITS
from bloomery_trainer.prepare.shards import Shard
from bloomery_trainer.storage import Folder

NAME = "manifest.json"
IGNORED = "ignored.jsonl"
REPORT = "report.html"
LISTED = 1000
"""Ignored files that the manifest and the report name; ignored.jsonl has all."""

_PACKING = 1
"""Raised when the same images and settings begin to give other shards."""


def settings(config: PrepareConfig) -> dict[str, Any]:
    """The settings that shape a version."""
    document = config.model_dump(mode="json", by_alias=True, include={"rules", "split", "shards"})
    # What may be fetched is no matter of what came of it.
    del document["rules"]["maxArchiveBytes"]
    return {"packing": _PACKING, **document}


def version_of(contents: Iterable[tuple[str, str, bytes]], settings: Mapping[str, Any]) -> str:
    """The content digest: hex sha256 over the settings and the sorted (class, split, image sha256) triples."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for class_name, split, sha256 in contents:
        digest.update(f"\n{class_name}\t{split}\t{sha256.hex()}".encode())
    return digest.hexdigest()


def write_ignored(target: Folder, path: str, ignored: Iterable[Ignored]) -> list[dict[str, str]]:
    """Writes one JSON line for each ignored file; returns the first of them."""
    first: list[dict[str, str]] = []
    with target.writer(path) as writer:
        for file in ignored:
            entry = {"key": file.key, "reason": file.reason, "detail": file.detail}
            if len(first) < LISTED:
                first.append(entry)
            writer.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
    return first


def build(
    *,
    version: str,
    settings: Mapping[str, Any],
    counts: Mapping[tuple[str, str], int],
    shards: Mapping[str, Sequence[Shard]],
    ignored: Sequence[Mapping[str, str]],
    reasons: Mapping[str, int],
    warnings: Sequence[str],
) -> dict[str, Any]:
    """The manifest's content."""
    classes = sorted({name for name, _ in counts})
    return {
        "version": version,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "classes": classes,
        "counts": {name: {split: counts.get((name, split), 0) for split in SPLITS} for name in classes},
        "shards": {split: [shard.document() for shard in shards[split]] for split in SPLITS if shards.get(split)},
        "ignored": list(ignored),
        "ignoredCounts": dict(reasons),
        "warnings": list(warnings),
        "settings": dict(settings),
    }


def summary(manifest: Mapping[str, Any], uri: str) -> dict[str, Any]:
    """What the operator is told of a version."""
    classes = [{"name": name, **manifest["counts"][name]} for name in manifest["classes"]]
    return {
        "version": manifest["version"],
        "uri": uri,
        "images": sum(entry[split] for entry in classes for split in SPLITS),
        "classes": classes,
        "classCount": len(classes),
        "ignored": manifest["ignoredCounts"],
        "warnings": manifest["warnings"],
        "report": f"{uri}/{REPORT}",
    }
