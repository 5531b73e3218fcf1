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
        self._controlled: dict[tuple[Kind, str], set[Key]] = {}
        self._touched: dict[Kind, set[Key]] = {}

    def get(self, kind: Kind, key: Key) -> Manifest | None:
        """Return one object as last seen."""
        return self._objects.get(kind, {}).get(key)

    def items(self, kind: Kind) -> Iterator[tuple[Key, Manifest]]:
        """Iterate over a kind's objects."""
        return iter(list(self._objects.get(kind, {}).items()))

    def controlled_by(self, kind: Kind, namespace: str, uid: str) -> list[Manifest]:
        """Return a kind's objects whose controller has that uid, by name."""
        keys = sorted(key for key in self._controlled.get((kind, uid), ()) if key.namespace == namespace)
        return [self._objects[kind][key] for key in keys]

    def put(self, kind: Kind, manifest: Manifest) -> None:
        """Take in an object that was added or changed, unless a newer version of it is known."""
        key = key_of(manifest)
        self._touched.setdefault(kind, set()).add(key)
        if not _is_newer(self.get(kind, key), manifest):
            self._put(kind, key, manifest)

    def remove(self, kind: Kind, key: Key) -> None:
        """Forget an object that is gone."""
        self._touched.setdefault(kind, set()).add(key)
        self._remove(kind, key)

    def begin_listing(self, kind: Kind) -> None:
        """Note that a list is asked for now: what is put or removed from here on is newer than the list."""
        self._touched[kind] = set()

    def replace(self, kind: Kind, manifests: Iterable[Manifest]) -> frozenset[Key]:
        """Take in a list begun before; return the keys that were missing, gone or of another version."""
        fresh = {key_of(manifest): manifest for manifest in manifests}
        before = self._objects.get(kind, {})
        differing = frozenset(
            key for key in before.keys() | fresh.keys() if _version(before.get(key)) != _version(fresh.get(key))
        ) - self._touched.get(kind, set())
        for key in differing:
            if key in fresh:
                self._put(kind, key, fresh[key])
            else:
                self._remove(kind, key)
        return differing

    def _put(self, kind: Kind, key: Key, manifest: Manifest) -> None:
        self._remove(kind, key)
        self._objects.setdefault(kind, {})[key] = trimmed(kind, manifest)
        uid = controller_uid(manifest)
        if uid is not None:
            self._controlled.setdefault((kind, uid), set()).add(key)

    def _remove(self, kind: Kind, key: Key) -> None:
        former = self._objects.get(kind, {}).pop(key, None)
        uid = controller_uid(former) if former is not None else None
        if uid is None:
            return
        siblings = self._controlled[kind, uid]
        siblings.discard(key)
        if not siblings:
            del self._controlled[kind, uid]


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
    node = {"spec": {"nodeName": manifest["spec"]["nodeName"]}} if manifest.get("spec", {}).get("nodeName") else {}
    return node | {"metadata": metadata, "status": {field: status[field] for field in _POD_STATUS if field in status}}


def _is_newer(known: Manifest | None, manifest: Manifest) -> bool:
    """Whether what is known is newer: an answer to our own write may come after the watch's later news.

    Versions of one object are ordered as numbers (Kubernetes' own promise since 1.35, etcd's ever since).
    """
    versions = _version(known), _version(manifest)
    if any(version is None or not version.isdecimal() for version in versions):
        return False
    return _uid(known) == _uid(manifest) and int(versions[0] or 0) > int(versions[1] or 0)


def _uid(manifest: Manifest | None) -> str | None:
    return manifest["metadata"].get("uid") if manifest else None


def _version(manifest: Manifest | None) -> str | None:
    return manifest["metadata"].get("resourceVersion") if manifest else None
