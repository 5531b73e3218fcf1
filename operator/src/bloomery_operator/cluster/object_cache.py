"""Cache of the watched objects, without unused fields.

Watch events update it. The resync replaces it by fresh lists, and reports the objects that differed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from bloomery_operator.api.base import Manifest
from bloomery_operator.cluster.client import Listing
from bloomery_operator.cluster.kinds import (
    BATCH_PREDICTIONS,
    INFERENCE_SERVICES,
    PODS,
    RETRAININGS,
    TRAINING_JOBS,
    ObjectKey,
    ResourceKind,
)
from bloomery_operator.cluster.unused_fields import strip_unused_fields
from bloomery_operator.domain.labels import REVISION
from bloomery_operator.domain.ownership import controller_uid

CONTROLLER = "controller"
"""Index of all objects by the uid of their controller."""
POD_REVISION = "revision"
"""Index of the model servers' pods by revision."""
USED_DATASET = "dataset"
"""Index of TrainingJobs and Retrainings by the names of their Datasets."""
USED_TRAINING_JOB = "trainingJob"
"""Index of the objects that use the model of a TrainingJob, by its name."""


class _IndexEntry(NamedTuple):
    kind: ResourceKind
    index_name: str
    namespace: str
    value: str


class ObjectCache:
    """Objects by kind and key. Not thread-safe: only the event loop uses it."""

    def __init__(self) -> None:
        """Start empty."""
        self._objects: dict[ResourceKind, dict[ObjectKey, Manifest]] = {}
        self._index: dict[_IndexEntry, set[ObjectKey]] = {}
        self._changed_since_list: dict[ResourceKind, set[ObjectKey]] = {}
        self._newest_version: dict[ResourceKind, int] = {}
        self._version_at_list: dict[ResourceKind, int] = {}

    def get(self, kind: ResourceKind, key: ObjectKey) -> Manifest | None:
        """Return the cached object, or None."""
        return self._objects.get(kind, {}).get(key)

    def is_watched(self, kind: ResourceKind) -> bool:
        """Return whether the kind is listed and watched."""
        return kind in self._changed_since_list

    def items(self, kind: ResourceKind) -> Iterator[tuple[ObjectKey, Manifest]]:
        """Iterate over a kind's objects."""
        return iter(list(self._objects.get(kind, {}).items()))

    def controlled_by(self, kind: ResourceKind, namespace: str, uid: str) -> list[Manifest]:
        """Return the objects of a kind whose controller has that uid, sorted by name."""
        return [manifest for _, manifest in self.find(kind, CONTROLLER, namespace, uid)]

    def find(self, kind: ResourceKind, index: str, namespace: str, value: str) -> list[tuple[ObjectKey, Manifest]]:
        """Return the objects of a kind in a namespace that an index has for a value, sorted by name."""
        keys = sorted(self._index.get(_IndexEntry(kind, index, namespace, value), ()))
        return [(key, self._objects[kind][key]) for key in keys]

    def put(self, kind: ResourceKind, manifest: Manifest) -> None:
        """Store an object that was added or changed, unless a newer version is cached."""
        key = self._note_change(kind, manifest)
        if not _is_newer(self.get(kind, key), manifest):
            self._put(kind, key, manifest)

    def remove(self, kind: ResourceKind, manifest: Manifest) -> None:
        """Remove an object that was deleted."""
        self._remove(kind, self._note_change(kind, manifest))

    def begin_relist(self, kind: ResourceKind) -> None:
        """Note that a list is requested now: every later change is newer than the list."""
        self._changed_since_list[kind] = set()
        self._version_at_list[kind] = self._newest_version.get(kind, 0)

    def replace(self, kind: ResourceKind, listing: Listing) -> frozenset[ObjectKey] | None:
        """Replace the objects of a kind by a list, except for those that changed after ``begin_relist``.

        Returns:
            The keys of the objects that were missing, gone or of another version. None for a list that is older than
            the cache was when the list was requested; the list is ignored then.
        """
        if any(_version_number(version) < self._version_at_list[kind] for version in listing.versions):
            return None
        self._newest_version[kind] = max(self._newest_version.get(kind, 0), *map(_version_number, listing.versions))
        fresh = {key_of(manifest): manifest for manifest in listing.items}
        before = self._objects.get(kind, {})
        differing = frozenset(
            key for key in before.keys() | fresh.keys() if _version(before.get(key)) != _version(fresh.get(key))
        ) - self._changed_since_list.get(kind, set())
        for key in differing:
            if key in fresh:
                self._put(kind, key, fresh[key])
            else:
                self._remove(kind, key)
        return differing

    def _note_change(self, kind: ResourceKind, manifest: Manifest) -> ObjectKey:
        """Note that an event reported an object; return its key."""
        key = key_of(manifest)
        self._changed_since_list.setdefault(kind, set()).add(key)
        self._newest_version[kind] = max(self._newest_version.get(kind, 0), _version_number(_version(manifest)))
        return key

    def _put(self, kind: ResourceKind, key: ObjectKey, manifest: Manifest) -> None:
        self._remove(kind, key)
        self._objects.setdefault(kind, {})[key] = strip_unused_fields(kind, manifest)
        for entry in _index_entries(kind, manifest):
            self._index.setdefault(entry, set()).add(key)

    def _remove(self, kind: ResourceKind, key: ObjectKey) -> None:
        former = self._objects.get(kind, {}).pop(key, None)
        for entry in _index_entries(kind, former) if former is not None else ():
            siblings = self._index[entry]
            siblings.discard(key)
            if not siblings:
                del self._index[entry]


def _index_entries(kind: ResourceKind, manifest: Manifest) -> frozenset[_IndexEntry]:
    """Return the index entries of an object; they are the same with and without its unused fields."""
    namespace = manifest["metadata"]["namespace"]
    return frozenset(
        _IndexEntry(kind, index, namespace, value) for index, value in _index_values(kind, manifest) if value
    )


def _index_values(kind: ResourceKind, manifest: Manifest) -> Iterator[tuple[str, str | None]]:
    yield CONTROLLER, controller_uid(manifest)
    spec = manifest.get("spec", {})
    if kind is PODS:
        yield POD_REVISION, manifest["metadata"].get("labels", {}).get(REVISION)
    elif kind is TRAINING_JOBS:
        for dataset in spec.get("datasets", []):
            yield USED_DATASET, dataset.get("name")
        yield USED_TRAINING_JOB, spec.get("initialModel", {}).get("trainingJob")
    elif kind is RETRAININGS:
        for dataset in spec.get("template", {}).get("spec", {}).get("datasets", []):
            yield USED_DATASET, dataset.get("name")
    elif kind is INFERENCE_SERVICES:
        for variant in spec.get("variants", []):
            yield USED_TRAINING_JOB, variant["model"].get("trainingJob")
    elif kind is BATCH_PREDICTIONS:
        yield USED_TRAINING_JOB, spec.get("model", {}).get("trainingJob")


def key_of(manifest: Manifest) -> ObjectKey:
    """Return an object's key."""
    metadata = manifest["metadata"]
    return ObjectKey(metadata["namespace"], metadata["name"])


def _is_newer(cached: Manifest | None, manifest: Manifest) -> bool:
    """Return whether the cached object is the newer version of the same object: a response may come out of order."""
    return _uid(cached) == _uid(manifest) and _version_number(_version(cached)) > _version_number(_version(manifest))


def _version_number(version: str | None) -> int:
    """Return a resourceVersion as a number. Kubernetes orders the versions of a kind so since 1.35, etcd always did.

    A version that is missing or is not a number counts as the oldest.
    """
    return int(version) if version is not None and version.isdecimal() else 0


def _uid(manifest: Manifest | None) -> str | None:
    return manifest["metadata"].get("uid") if manifest else None


def _version(manifest: Manifest | None) -> str | None:
    return manifest["metadata"].get("resourceVersion") if manifest else None
