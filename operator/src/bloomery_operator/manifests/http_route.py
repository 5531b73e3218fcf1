"""HTTPRoute of a service (Gateway API v1): weights, the variant header and mirrors."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from bloomery_operator.api import InferenceService
from bloomery_operator.api.base import Manifest
from bloomery_operator.domain.labels import SERVE_ROLE
from bloomery_operator.domain.ports import SERVICE_PORT
from bloomery_operator.domain.traffic import Mirror, Traffic
from bloomery_operator.manifests.metadata import child_metadata
from bloomery_operator.settings import Settings

VARIANT_HEADER = "X-Variant"
REQUEST_TIMEOUT = "60s"
"""Of a request with its retries: a single try has no limit, as the first prediction of a pod may be slow."""
TIMEOUTS, MIRROR_PERCENT = "timeouts", "percent"
OPTIONAL_FIELDS = {
    TIMEOUTS: "the gateway's own time limits apply",
    MIRROR_PERCENT: "variants with a mirrorPercent below 100 get no copies",
}
"""Fields that the Gateway API has since 1.2 and 1.3, and what their absence means."""


def build_route(service: InferenceService, traffic: Traffic, settings: Settings) -> Manifest:
    """Return the route: a rule for each variant's header first, then the weighted one."""
    rules = [_rule(service, [_backend(name, 1)], header=variant) for variant, name in traffic.direct.items()]
    weighted = [_backend(b.revision, b.weight) for b in traffic.backends]
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": child_metadata(service, name=service.metadata.name, role=SERVE_ROLE),
        "spec": {
            "parentRefs": [_gateway_reference(settings)],
            "rules": [*rules, _rule(service, weighted, mirrors=traffic.mirrors)],
        },
    }


def without_fields(route: Manifest, fields: Collection[str]) -> Manifest:
    """Return a route without some of the ``OPTIONAL_FIELDS``; a mirror without its percentage would copy everything."""
    rules = []
    for rule in route["spec"]["rules"]:
        known_fields = {name: value for name, value in rule.items() if name != TIMEOUTS or TIMEOUTS not in fields}
        if MIRROR_PERCENT in fields:
            known_fields["filters"] = [entry for entry in map(_without_percent, rule["filters"]) if entry is not None]
        rules.append(known_fields)
    return route | {"spec": route["spec"] | {"rules": rules}}


def missing_fields(route: Manifest, mirrors: Sequence[Mirror]) -> tuple[str, ...]:
    """Return the ``OPTIONAL_FIELDS`` that a route should have and that the cluster's Gateway API lacks."""
    lacks = {
        TIMEOUTS: any(TIMEOUTS not in rule for rule in _rules(route)),
        MIRROR_PERCENT: not {mirror.revision for mirror in mirrors} <= _mirrored_revisions(route),
    }
    return tuple(field for field in OPTIONAL_FIELDS if lacks[field])


def _without_percent(entry: Manifest) -> Manifest | None:
    mirror = entry.get("requestMirror")
    if mirror is None:
        return entry
    if mirror["percent"] < 100:
        return None
    return entry | {"requestMirror": {"backendRef": mirror["backendRef"]}}


def routed_weights(route: Manifest | None) -> dict[str, int]:
    """Return the weight of each revision in a route's weighted rule, which is its last."""
    rules = _rules(route) or [{}]
    return {ref["name"]: ref.get("weight", 1) for ref in rules[-1].get("backendRefs", [])}


def routed_path(route: Manifest | None) -> str | None:
    """Return the path of a route; None if there is no route, or its rules have different paths."""
    paths = {match.get("path", {}).get("value") for rule in _rules(route) for match in rule.get("matches") or [{}]}
    return paths.pop() if len(paths) == 1 else None


def routed_revisions(route: Manifest | None) -> frozenset[str]:
    """Return every revision that a route names: by weight, by header or as a mirror."""
    weighted = (ref["name"] for rule in _rules(route) for ref in rule.get("backendRefs", []))
    return _mirrored_revisions(route) | frozenset(weighted)


def _mirrored_revisions(route: Manifest | None) -> frozenset[str]:
    filters = (entry for rule in _rules(route) for entry in rule.get("filters", []))
    return frozenset(entry["requestMirror"]["backendRef"]["name"] for entry in filters if "requestMirror" in entry)


def _rules(route: Manifest | None) -> list[Manifest]:
    return (route or {}).get("spec", {}).get("rules") or []


def _gateway_reference(settings: Settings) -> Manifest:
    namespace = {"namespace": settings.gateway_namespace} if settings.gateway_namespace else {}
    return {
        "group": "gateway.networking.k8s.io",
        "kind": "Gateway",
        "name": settings.gateway_name,
    } | namespace


def _rule(
    service: InferenceService,
    backends: Sequence[Manifest],
    *,
    header: str | None = None,
    mirrors: Sequence[Mirror] = (),
) -> Manifest:
    match: Manifest = {"path": {"type": "PathPrefix", "value": service.path}}
    if header:
        match["headers"] = [{"type": "Exact", "name": VARIANT_HEADER, "value": header}]
    strip = {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}
    return {
        "matches": [match],
        "filters": [{"type": "URLRewrite", "urlRewrite": {"path": strip}}, *map(_mirror_filter, mirrors)],
        "backendRefs": list(backends),
        "timeouts": {"request": REQUEST_TIMEOUT},
    }


def _service_reference(revision: str) -> Manifest:
    return {"group": "", "kind": "Service", "name": revision, "port": SERVICE_PORT}


def _backend(revision: str, weight: int) -> Manifest:
    return _service_reference(revision) | {"weight": weight}


def _mirror_filter(mirror: Mirror) -> Manifest:
    target = {"backendRef": _service_reference(mirror.revision), "percent": mirror.percent}
    return {"type": "RequestMirror", "requestMirror": target}
