"""The manifest of a dataset version: written last, so that a version with a manifest is complete."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from bloomery_model.split_folders import SPLITS
from bloomery_trainer.config import DEFAULT_FORMATS, PrepareConfig
from bloomery_trainer.prepare.file_table import IgnoredFile
from bloomery_trainer.prepare.quality import QualityCounts
from bloomery_trainer.prepare.shards import Shard
from bloomery_trainer.storage import Folder

MANIFEST_NAME = "manifest.json"
IGNORED_NAME = "ignored.jsonl"
REPORT_NAME = "report.html"
QUALITY_NAME = "quality.jsonl"
MAX_LISTED_FILES = 1000
"""Ignored files that the manifest and the report list; ignored.jsonl lists all."""

_FIRST_DEFAULT_FORMATS = ("jpg", "jpeg", "png", "bmp")
"""Stands for the default in the digest, whatever the default is: the same images keep their version."""

_PACKING_VERSION = 1
"""Increased when the same images and settings give other shards."""


def version_settings(config: PrepareConfig) -> dict[str, Any]:
    """Return the settings that are part of the version."""
    settings = config.model_dump(mode="json", by_alias=True, include={"rules", "split", "shards"})
    # The download limit does not affect the dataset's content, and copies are left out of the content itself.
    del settings["rules"]["maxArchiveBytes"], settings["rules"]["leaks"]
    return {"packing": _PACKING_VERSION, **settings}


def compute_version(contents: Iterable[tuple[str, str, bytes]], settings: Mapping[str, Any]) -> str:
    """Return the content digest: hex sha256 of the settings and the sorted (class, split, image sha256) triples."""
    rules = settings["rules"]
    if tuple(rules["formats"]) == DEFAULT_FORMATS:
        settings = {**settings, "rules": {**rules, "formats": _FIRST_DEFAULT_FORMATS}}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for class_name, split, sha256 in contents:
        digest.update(f"\n{class_name}\t{split}\t{sha256.hex()}".encode())
    return digest.hexdigest()


def describe_ignored(file: IgnoredFile) -> dict[str, str]:
    """Return the entry of an ignored file."""
    return {"key": file.key, "reason": file.reason, "detail": file.detail}


def write_ignored(target: Folder, path: str, ignored: Iterable[IgnoredFile]) -> list[dict[str, str]]:
    """Write one JSON line for each ignored file; return the first of them."""
    listed: list[dict[str, str]] = []
    with target.writer(path) as writer:
        for file in ignored:
            entry = describe_ignored(file)
            if len(listed) < MAX_LISTED_FILES:
                listed.append(entry)
            writer.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
    return listed


def build_manifest(
    *,
    version: str,
    settings: Mapping[str, Any],
    counts: Mapping[tuple[str, str], int],
    shards: Mapping[str, Sequence[Shard]],
    ignored: Sequence[Mapping[str, str]],
    reasons: Mapping[str, int],
    quality: QualityCounts,
    warnings: Sequence[str],
) -> dict[str, Any]:
    """Return the manifest's content.

    Args:
        version: the content digest.
        settings: that are part of the version.
        counts: images of each class and split.
        shards: of each split.
        ignored: the first ignored files.
        reasons: number of ignored files for each reason.
        quality: number of copies.
        warnings: sentences for people.
    """
    classes = sorted({name for name, _ in counts})
    return {
        "version": version,
        "created": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "classes": classes,
        "counts": {name: {split: counts.get((name, split), 0) for split in SPLITS} for name in classes},
        "shards": {split: [shard.to_json() for shard in shards[split]] for split in SPLITS if shards.get(split)},
        "ignored": list(ignored),
        "ignoredCounts": dict(reasons),
        "quality": quality.to_json(),
        "warnings": list(warnings),
        "settings": dict(settings),
    }


def build_summary(manifest: Mapping[str, Any], uri: str) -> dict[str, Any]:
    """Return the summary of a version, for the termination message."""
    classes = [{"name": name, **manifest["counts"][name]} for name in manifest["classes"]]
    return {
        "version": manifest["version"],
        "uri": uri,
        "images": sum(entry[split] for entry in classes for split in SPLITS),
        "classes": classes,
        "classCount": len(classes),
        "ignored": manifest["ignoredCounts"],
        "quality": manifest["quality"],
        "warnings": manifest["warnings"],
        "report": f"{uri}/{REPORT_NAME}",
    }
