"""The operator's picture of the cluster: what the watches last said, trimmed to what decisions need.

Fed by kopf's events; the resync replaces it by a fresh list, and says where the two differed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from bloomery_operator.api.common import Manifest
from bloomery_operator.cluster.kinds import PODS, Key, Kind
from bloomery_operator.resources.metadata import controller_uid

_POD_STATUS = ("phase", "podIP", "conditions", "containerStatuses")


class Projection:
    """Objects by kind and key. Not shared between threads: the event loop is its only user."""

    def __init__(self) -> None:
        """Start empty."""
        self._objects: dict[Kind, dict[Key, Manifest]] = {}

    def get(self, kind: Kind, key: Key) -> Manifest | None:
        """Return one object as last seen."""
        return self._objects.get(kind, {}).get(key)

    def items(self, kind: Kind) -> Iterator[tuple[Key, Manifest]]:
        """Iterate over a kind's objects."""
        return iter(list(self._objects.get(kind, {}).items()))

    def controlled_by(self, kind: Kind, namespace: str, uid: str) -> list[Manifest]:
        """Return a kind's objects whose controller has that uid, by name."""
        return [
            manifest
            for key, manifest in sorted(self.items(kind), key=lambda item: item[0])
            if key.namespace == namespace and controller_uid(manifest) == uid
        ]

    def put(self, kind: Kind, manifest: Manifest) -> None:
        """Take in an object that was added or changed."""
        self._objects.setdefault(kind, {})[key_of(manifest)] = trimmed(kind, manifest)

    def remove(self, kind: Kind, key: Key) -> None:
        """Forget an object that is gone."""
        self._objects.get(kind, {}).pop(key, None)

    def replace(self, kind: Kind, manifests: Iterable[Manifest]) -> frozenset[Key]:
        """Take in a fresh list; return the keys that were missing, gone or of another version before."""
        fresh = {key_of(manifest): trimmed(kind, manifest) for manifest in manifests}
        before = self._objects.get(kind, {})
        self._objects[kind] = fresh
        return frozenset(
            key for key in before.keys() | fresh.keys() if _version(before.get(key)) != _version(fresh.get(key))
        )


def key_of(manifest: Manifest) -> Key:
    """Return an object's key."""
    metadata = manifest["metadata"]
    return Key(metadata["namespace"], metadata["name"])


def trimmed(kind: Kind, manifest: Manifest) -> Manifest:
    """Return the object without what no decision reads, which is most of a pod."""
    metadata = {k: v for k, v in manifest["metadata"].items() if k != "managedFields"}
    if kind is not PODS:
        return {**manifest, "metadata": metadata}
    status = manifest.get("status", {})
    return {"metadata": metadata, "status": {field: status[field] for field in _POD_STATUS if field in status}}


def _version(manifest: Manifest | None) -> str | None:
    return manifest["metadata"].get("resourceVersion") if manifest else None
