"""The operator's picture of the cluster: what the watches last said, trimmed to what decisions need.

Fed by kopf's events; the resync replaces it by a fresh list, and says where the two differed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from bloomery_operator.api.base import Manifest
from bloomery_operator.cluster.client import Listing
from bloomery_operator.cluster.kinds import INFERENCE_SERVICES, PODS, TRAINING_JOBS, Key, Kind
from bloomery_operator.cluster.trimming import trimmed
from bloomery_operator.domain.labels import REVISION
from bloomery_operator.domain.ownership import controller_uid

CONTROLLER = "controller"
"""Index of all objects, by their controller's uid."""
POD_REVISION = "revision"
"""Index of model servers' pods, by their revision."""
USED_DATASET = "dataset"
"""Index of TrainingJobs, by the Datasets that they train on."""
USED_TRAINING_JOB = "trainingJob"
"""Index of what takes its model from a TrainingJob, by that one's name."""


class _Entry(NamedTuple):
    kind: Kind
    index_name: str
    namespace: str
    value: str


class Projection:
    """Objects by kind and key. Not shared between threads: the event loop is its only user."""

    def __init__(self) -> None:
        """Start empty."""
        self._objects: dict[Kind, dict[Key, Manifest]] = {}
        self._indexed: dict[_Entry, set[Key]] = {}
        self._touched: dict[Kind, set[Key]] = {}
        self._newest: dict[Kind, int] = {}
        self._asked_at: dict[Kind, int] = {}

    def get(self, kind: Kind, key: Key) -> Manifest | None:
        """Return one object as last seen."""
        return self._objects.get(kind, {}).get(key)

    def follows(self, kind: Kind) -> bool:
        """Whether a kind is listed and watched at all."""
        return kind in self._touched

    def items(self, kind: Kind) -> Iterator[tuple[Key, Manifest]]:
        """Iterate over a kind's objects."""
        return iter(list(self._objects.get(kind, {}).items()))

    def controlled_by(self, kind: Kind, namespace: str, uid: str) -> list[Manifest]:
        """Return a kind's objects whose controller has that uid, by name."""
        return [manifest for _, manifest in self.find(kind, CONTROLLER, namespace, uid)]

    def find(self, kind: Kind, index: str, namespace: str, value: str) -> list[tuple[Key, Manifest]]:
        """Return a kind's objects in a namespace that an index has under a value, by name."""
        keys = sorted(self._indexed.get(_Entry(kind, index, namespace, value), ()))
        return [(key, self._objects[kind][key]) for key in keys]

    def put(self, kind: Kind, manifest: Manifest) -> None:
        """Take in an object that was added or changed, unless a newer version of it is known."""
        key = self._touch(kind, manifest)
        if not _is_newer(self.get(kind, key), manifest):
            self._put(kind, key, manifest)

    def remove(self, kind: Kind, manifest: Manifest) -> None:
        """Forget an object that is gone."""
        self._remove(kind, self._touch(kind, manifest))

    def begin_listing(self, kind: Kind) -> None:
        """Note that a list is asked for now: what is put or removed from here on is newer than the list."""
        self._touched[kind] = set()
        self._asked_at[kind] = self._newest.get(kind, 0)

    def replace(self, kind: Kind, listing: Listing) -> frozenset[Key] | None:
        """Take in a list begun before; return the keys that were missing, gone or of another version.

        None for a list that is older than what was known when it was asked for: it is left aside.
        """
        if any(_number(version) < self._asked_at[kind] for version in listing.versions):
            return None
        self._newest[kind] = max(self._newest.get(kind, 0), *map(_number, listing.versions))
        fresh = {key_of(manifest): manifest for manifest in listing.items}
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

    def _touch(self, kind: Kind, manifest: Manifest) -> Key:
        """Note that there is news of an object; return its key."""
        key = key_of(manifest)
        self._touched.setdefault(kind, set()).add(key)
        self._newest[kind] = max(self._newest.get(kind, 0), _number(_version(manifest)))
        return key

    def _put(self, kind: Kind, key: Key, manifest: Manifest) -> None:
        self._remove(kind, key)
        self._objects.setdefault(kind, {})[key] = trimmed(kind, manifest)
        for entry in _entries(kind, manifest):
            self._indexed.setdefault(entry, set()).add(key)

    def _remove(self, kind: Kind, key: Key) -> None:
        former = self._objects.get(kind, {}).pop(key, None)
        for entry in _entries(kind, former) if former is not None else ():
            siblings = self._indexed[entry]
            siblings.discard(key)
            if not siblings:
                del self._indexed[entry]


def _entries(kind: Kind, manifest: Manifest) -> frozenset[_Entry]:
    """Return under which values an object is found; the same for the object as it is kept."""
    namespace = manifest["metadata"]["namespace"]
    return frozenset(_Entry(kind, index, namespace, value) for index, value in _values(kind, manifest) if value)


def _values(kind: Kind, manifest: Manifest) -> Iterator[tuple[str, str | None]]:
    yield CONTROLLER, controller_uid(manifest)
    spec = manifest.get("spec", {})
    if kind is PODS:
        yield POD_REVISION, manifest["metadata"].get("labels", {}).get(REVISION)
    elif kind is TRAINING_JOBS:
        for dataset in spec.get("datasets", []):
            yield USED_DATASET, dataset.get("name")
        yield USED_TRAINING_JOB, spec.get("initialModel", {}).get("trainingJob")
    elif kind is INFERENCE_SERVICES:
        for variant in spec.get("variants", []):
            yield USED_TRAINING_JOB, variant["model"].get("trainingJob")


def key_of(manifest: Manifest) -> Key:
    """Return an object's key."""
    metadata = manifest["metadata"]
    return Key(metadata["namespace"], metadata["name"])


def _is_newer(known: Manifest | None, manifest: Manifest) -> bool:
    """Whether what is known is newer: an answer to our own write may come after the watch's later news."""
    return _uid(known) == _uid(manifest) and _number(_version(known)) > _number(_version(manifest))


def _number(version: str | None) -> int:
    """A resourceVersion as the number that a kind's are ordered by (Kubernetes' promise since 1.35, etcd's ever since).

    One that is no number is older than all that are, and so are those that are not known.
    """
    return int(version) if version is not None and version.isdecimal() else 0


def _uid(manifest: Manifest | None) -> str | None:
    return manifest["metadata"].get("uid") if manifest else None


def _version(manifest: Manifest | None) -> str | None:
    return manifest["metadata"].get("resourceVersion") if manifest else None
