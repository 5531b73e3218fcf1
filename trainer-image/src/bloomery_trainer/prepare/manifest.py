"""The manifest of a dataset version: written last, so that a version with a manifest is a whole one."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from bloomery_trainer.config import PrepareConfig
from bloomery_trainer.prepare.listing import SPLITS, Ignored
from bloomery_trainer.prepare.shards import Shard
from bloomery_trainer.prepare.split import Sample

NAME = "manifest.json"
_PACKING = 1
"""Raised when the same images and settings begin to give other shards."""


def settings(config: PrepareConfig) -> dict[str, Any]:
    """The settings that shape a version."""
    document = config.model_dump(mode="json", by_alias=True, include={"rules", "split", "shards"})
    return {"packing": _PACKING, **document}


def version_of(samples: Iterable[Sample], settings: Mapping[str, Any]) -> str:
    """The content digest: hex sha256 over the settings and the sorted (class, split, image sha256) triples."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for line in sorted(f"\n{s.class_name}\t{s.split}\t{s.sha256.hex()}" for s in samples):
        digest.update(line.encode())
    return digest.hexdigest()


def build(
    *,
    version: str,
    settings: Mapping[str, Any],
    samples: Iterable[Sample],
    shards: Mapping[str, Sequence[Shard]],
    ignored: Sequence[Ignored],
    warnings: Sequence[str],
) -> dict[str, Any]:
    """The manifest's content."""
    counts = Counter((sample.class_name, sample.split) for sample in samples)
    classes = sorted({name for name, _ in counts})
    return {
        "version": version,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "classes": classes,
        "counts": {name: {split: counts[name, split] for split in SPLITS} for name in classes},
        "shards": {split: [shard.document() for shard in shards[split]] for split in SPLITS if shards.get(split)},
        "ignored": [{"key": i.key, "reason": i.reason, "detail": i.detail} for i in ignored],
        "ignoredCounts": dict(sorted(Counter(i.reason for i in ignored).items())),
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
    }
