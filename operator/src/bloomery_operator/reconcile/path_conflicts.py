"""Paths on the gateway: services whose paths overlap, of which the oldest keeps its route."""

from __future__ import annotations

from collections.abc import Iterator

from bloomery_operator.api import InferenceService
from bloomery_operator.api.base import Manifest
from bloomery_operator.api.reasons import Reason
from bloomery_operator.cluster.kinds import INFERENCE_SERVICES, ObjectKey
from bloomery_operator.cluster.object_cache import ObjectCache, key_of
from bloomery_operator.domain.verdict import Verdict
from bloomery_operator.reconcile.context import Context
from bloomery_operator.reconcile.lookups import find_resource


def find_path_conflict(context: Context, service: InferenceService) -> Verdict | None:
    """Return the conflict with an older service that has this path, a prefix of it, or a path below it."""
    for key in overlapping(context.object_cache, service.path):
        other = find_resource(context, INFERENCE_SERVICES, InferenceService, key)
        if other is None or other.metadata.uid == service.metadata.uid:
            continue
        if _age_order(other) < _age_order(service):
            message = (
                f"The path {service.path!r} overlaps with {other.path!r} of an older service on this gateway; "
                "set another spec.path."
            )
            return Verdict(Reason.PATH_TAKEN, message, failed=True)
    return None


def _age_order(service: InferenceService) -> tuple[str, str]:
    created = service.metadata.creation_timestamp
    return (created.isoformat() if created else "", service.metadata.uid)


def path_of(manifest: Manifest) -> str:
    """Return a service's path from its manifest: with thousands of services, parsing each would be slow."""
    path: str = manifest["spec"].get("path") or f"/{key_of(manifest)}"
    return path


def overlapping(object_cache: ObjectCache, path: str) -> Iterator[ObjectKey]:
    """Yield the services that have a path, a prefix of it, or a path below it."""
    return (key for key, manifest in object_cache.items(INFERENCE_SERVICES) if _overlap(path, path_of(manifest)))


def _overlap(one: str, other: str) -> bool:
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")
