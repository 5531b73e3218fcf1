"""Paths on the gateway: which a service may have, and the older service whose path overlaps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bloomery_operator.api import InferenceService
from bloomery_operator.api.base import Manifest
from bloomery_operator.api.reasons import Reason
from bloomery_operator.cluster.kinds import HTTP_ROUTES, INFERENCE_SERVICES, ObjectKey
from bloomery_operator.cluster.object_cache import ObjectCache, key_of
from bloomery_operator.domain.gateway_paths import is_within, may_use_path, overlap
from bloomery_operator.domain.verdict import Verdict
from bloomery_operator.manifests.http_route import routed_path
from bloomery_operator.reconcile.context import Context
from bloomery_operator.reconcile.lookups import find_resource


@dataclass(frozen=True)
class PathCheck:
    """Whether a service may have its path."""

    conflict: Verdict | None = None
    """Why it gets no route."""
    warning: Verdict | None = None
    """Why its route stays, although a new one would not be made."""


def find_route(object_cache: ObjectCache, service: InferenceService) -> Manifest | None:
    """Return the route of a service."""
    routes = object_cache.controlled_by(HTTP_ROUTES, service.metadata.namespace, service.metadata.uid)
    return routes[0] if routes else None


def check_path(context: Context, service: InferenceService) -> PathCheck:
    """Check the path of a service: its namespace may use it, and no older service has it.

    Within a namespace the oldest service wins. Another namespace never takes a path from a live route: it has other
    prefixes, and a route from before these were checked stays.
    """
    if not context.settings.has_gateway:
        return PathCheck()
    is_live = routed_path(find_route(context.object_cache, service)) == service.path
    is_allowed = _is_allowed(context, service)
    if not is_allowed and not is_live:
        return PathCheck(conflict=_not_allowed(service))
    conflict = _older_neighbour(context, service) or (None if is_live else _live_route_elsewhere(context, service))
    return PathCheck(conflict, None if is_allowed or conflict is not None else _kept_route(service))


def path_of(manifest: Manifest) -> str:
    """Return a service's path from its manifest: with thousands of services, parsing each would be slow."""
    path: str = manifest["spec"].get("path") or f"/{key_of(manifest)}"
    return path


def overlapping(object_cache: ObjectCache, path: str) -> Iterator[ObjectKey]:
    """Yield the services that have a path, a prefix of it, or a path below it."""
    return (key for key, manifest in object_cache.items(INFERENCE_SERVICES) if overlap(path, path_of(manifest)))


def _is_allowed(context: Context, service: InferenceService) -> bool:
    return may_use_path(service.metadata.namespace, service.path, context.settings.path_prefixes)


def _older_neighbour(context: Context, service: InferenceService) -> Verdict | None:
    for other in _overlapping_services(context, service):
        if other.metadata.namespace == service.metadata.namespace and _age_order(other) < _age_order(service):
            message = (
                f"The path {service.path!r} overlaps with {other.path!r} of an older service on this gateway; "
                "set another spec.path."
            )
            return Verdict(Reason.PATH_TAKEN, message, failed=True)
    return None


def _live_route_elsewhere(context: Context, service: InferenceService) -> Verdict | None:
    """Return the conflict with a route of another namespace, which would get requests and keys of this service.

    Only a route from before prefixes were checked can be there. One with a shorter path gets none of them.
    """
    for other in _overlapping_services(context, service):
        path = routed_path(find_route(context.object_cache, other))
        if other.metadata.namespace == service.metadata.namespace or path is None or _is_allowed(context, other):
            continue
        if is_within(path, service.path):
            message = (
                f"The path {service.path!r} overlaps with {path!r}, which a service of another namespace has had for "
                "longer on this gateway: the administrator can move that service, or set another spec.path."
            )
            return Verdict(Reason.PATH_TAKEN, message, failed=True)
    return None


def _overlapping_services(context: Context, service: InferenceService) -> Iterator[InferenceService]:
    for key in overlapping(context.object_cache, service.path):
        other = find_resource(context, INFERENCE_SERVICES, InferenceService, key)
        if other is not None and other.metadata.uid != service.metadata.uid:
            yield other


def _not_allowed(service: InferenceService) -> Verdict:
    message = (
        f"The path {service.path!r} does not belong to namespace {service.metadata.namespace!r}: set a spec.path below "
        f"'/{service.metadata.namespace}/', or ask the administrator for a prefix (gateway.pathPrefixes of the chart)."
    )
    return Verdict(Reason.PATH_NOT_ALLOWED, message, failed=True)


def _kept_route(service: InferenceService) -> Verdict:
    message = (
        f"The gateway routes {service.path}, which does not belong to namespace {service.metadata.namespace!r}. The "
        "route stays as long as spec.path does; the administrator can grant the prefix (gateway.pathPrefixes of the "
        "chart)."
    )
    return Verdict(Reason.PATH_NOT_ALLOWED, message)


def _age_order(service: InferenceService) -> tuple[str, str]:
    created = service.metadata.creation_timestamp
    return (created.isoformat() if created else "", service.metadata.uid)
