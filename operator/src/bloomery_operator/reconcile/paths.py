"""Paths on the gateway, and whose overlap."""

from __future__ import annotations

from collections.abc import Iterator

from bloomery_operator.api.common import Manifest
from bloomery_operator.cluster.kinds import INFERENCE_SERVICES, ObjectKey
from bloomery_operator.cluster.object_cache import ObjectCache, key_of


def path_of(manifest: Manifest) -> str:
    """Return a service's path; there may be thousands, so that they are not read in full for it."""
    path: str = manifest["spec"].get("path") or f"/{key_of(manifest)}"
    return path


def overlapping(object_cache: ObjectCache, path: str) -> Iterator[ObjectKey]:
    """Give the services that have a path, or one that is a prefix of it or within it."""
    return (key for key, manifest in object_cache.items(INFERENCE_SERVICES) if _overlap(path, path_of(manifest)))


def _overlap(one: str, other: str) -> bool:
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")
