"""Cache of what was last applied, to skip server-side applies that would change nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from bloomery_operator.api.base import Manifest
from bloomery_operator.api.custom_resource import CustomResource
from bloomery_operator.cluster.kinds import ObjectKey, ResourceKind
from bloomery_operator.domain.digest import digest_of

SHARED_METADATA = ("labels", "annotations")
"""Metadata to which other programs may add entries."""

Owner = tuple[str, ObjectKey]
"""Kind and key of an owner."""


def owner_of(resource: CustomResource) -> Owner:
    """Return the cache's key of an owner."""
    return resource.KIND, ObjectKey(resource.metadata.namespace, resource.metadata.name)


@dataclass(frozen=True)
class _Record:
    applied_digest: str
    result_digest: str
    applied_at: float


class ApplyCache:
    """Digests of each child as it was applied, and as the API server returned it.

    They are in memory only: after a restart, the operator applies everything once.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Start empty; ``clock`` gives seconds."""
        self._clock = clock
        self._records: dict[Owner, dict[tuple[ResourceKind, str], _Record]] = {}

    def record(self, owner: Owner, kind: ResourceKind, manifest: Manifest, response: Manifest) -> None:
        """Record that a child was applied, with the response of the API server."""
        record = _Record(_applied_digest(manifest), _result_digest(response), self._clock())
        self._records.setdefault(owner, {})[kind, manifest["metadata"]["name"]] = record

    def is_unchanged(self, owner: Owner, kind: ResourceKind, manifest: Manifest, existing: Manifest) -> bool:
        """Return whether an existing child is as it was last applied, and ``manifest`` would change nothing."""
        record = self._records.get(owner, {}).get((kind, manifest["metadata"]["name"]))
        if record is None or record.applied_digest != _applied_digest(manifest):
            return False
        if record.result_digest != _result_digest(existing):
            return False
        metadata = existing["metadata"]
        return all(
            manifest["metadata"].get(field, {}).items() <= (metadata.get(field) or {}).items()
            for field in SHARED_METADATA
        )

    def was_applied_within(self, owner: Owner, kind: ResourceKind, manifest: Manifest, seconds: float) -> bool:
        """Return whether the same manifest was applied less than so many seconds ago."""
        record = self._records.get(owner, {}).get((kind, manifest["metadata"]["name"]))
        if record is None or record.applied_digest != _applied_digest(manifest):
            return False
        return self._clock() - record.applied_at < seconds

    def contains(self, owner: Owner, kind: ResourceKind, name: str) -> bool:
        """Return whether a child was applied and not deleted since."""
        return (kind, name) in self._records.get(owner, {})

    def forget(self, owner: Owner, kind: ResourceKind, name: str) -> None:
        """Forget a child that was deleted."""
        self._records.get(owner, {}).pop((kind, name), None)

    def forget_owner(self, owner: Owner) -> bool:
        """Forget all children of an owner that is gone; return whether any were known."""
        return self._records.pop(owner, None) is not None


def _applied_digest(manifest: Manifest) -> str:
    """Return the digest of a manifest, without the resourceVersion that the change is based on."""
    metadata = {field: value for field, value in manifest["metadata"].items() if field != "resourceVersion"}
    return digest_of(manifest | {"metadata": metadata})


def _result_digest(manifest: Manifest) -> str:
    """Return the digest of an object, without its status and the metadata that others may add."""
    owners = manifest["metadata"].get("ownerReferences")
    return digest_of([manifest.get("spec"), manifest.get("data"), owners])
