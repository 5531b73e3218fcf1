"""What was applied, so that it is not sent again for as long as it is as it was left."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from bloomery_operator.api.common import CustomResource, Manifest
from bloomery_operator.cluster.kinds import Key, Kind
from bloomery_operator.resources.metadata import digest_of

_SHARED = ("labels", "annotations")
"""Metadata to which others may add entries."""

Owner = tuple[str, Key]
"""An object of ours: its kind and its key."""


def owner_of(resource: CustomResource) -> Owner:
    """Return how an object is known here."""
    return resource.KIND, Key(resource.metadata.namespace, resource.metadata.name)


@dataclass(frozen=True)
class _Record:
    wanted: str
    left: str
    at: float


class Applied:
    """Remembers for each child what was wanted, and what the API server made of it.

    In memory alone: an operator that begins anew applies everything once.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Start empty; ``clock`` gives seconds."""
        self._clock = clock
        self._records: dict[Owner, dict[tuple[Kind, str], _Record]] = {}

    def note(self, owner: Owner, kind: Kind, manifest: Manifest, answer: Manifest) -> None:
        """Note that a child was applied, and what the API server answered."""
        record = _Record(_wanted(manifest), _content(answer), self._clock())
        self._records.setdefault(owner, {})[kind, manifest["metadata"]["name"]] = record

    def holds(self, owner: Owner, kind: Kind, manifest: Manifest, seen: Manifest) -> bool:
        """Whether a child that a watch shows is what was applied last, and that is what is wanted."""
        record = self._records.get(owner, {}).get((kind, manifest["metadata"]["name"]))
        if record is None or record.wanted != _wanted(manifest) or record.left != _content(seen):
            return False
        metadata = seen["metadata"]
        return all(
            manifest["metadata"].get(field, {}).items() <= (metadata.get(field) or {}).items() for field in _SHARED
        )

    def is_recent(self, owner: Owner, kind: Kind, manifest: Manifest, seconds: float) -> bool:
        """Whether a child that no watch shows was applied so shortly before, and just so."""
        record = self._records.get(owner, {}).get((kind, manifest["metadata"]["name"]))
        return record is not None and record.wanted == _wanted(manifest) and self._clock() - record.at < seconds

    def knows(self, owner: Owner, kind: Kind, name: str) -> bool:
        """Whether a child was applied and not deleted since, whatever a watch may show by now."""
        return (kind, name) in self._records.get(owner, {})

    def forget(self, owner: Owner, kind: Kind, name: str) -> None:
        """Forget a child that was deleted."""
        self._records.get(owner, {}).pop((kind, name), None)

    def forget_owner(self, owner: Owner) -> bool:
        """Forget all children of an owner that is gone; return whether any were known."""
        return self._records.pop(owner, None) is not None


def _wanted(manifest: Manifest) -> str:
    """Return the digest of what is described; the version that a change is meant for is no part of it."""
    metadata = {field: value for field, value in manifest["metadata"].items() if field != "resourceVersion"}
    return digest_of(manifest | {"metadata": metadata})


def _content(manifest: Manifest) -> str:
    """Return the digest of what an object is, without what others report in it or add to it."""
    owners = manifest["metadata"].get("ownerReferences")
    return digest_of([manifest.get("spec"), manifest.get("data"), owners])
