"""The HTTPRoute that spreads a service's traffic over its variants (Gateway API v1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bloomery_operator.api import InferenceService
from bloomery_operator.api.common import Manifest
from bloomery_operator.resources.metadata import child_metadata
from bloomery_operator.settings import Settings

VARIANT_HEADER = "X-Variant"
REQUEST_TIMEOUT = "60s"


@dataclass(frozen=True)
class Backend:
    """One variant's share of the route: the revision that answers for it, and its relative weight."""

    variant: str
    revision: str
    weight: int


def build_route(service: InferenceService, backends: Sequence[Backend], settings: Settings) -> Manifest:
    """Return the route: a rule for each variant by header first, then the weighted one."""
    rules = [_rule(service, [Backend(b.variant, b.revision, 1)], header=b.variant) for b in backends]
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": child_metadata(service, name=service.metadata.name, role="serve"),
        "spec": {
            "parentRefs": [_gateway(settings)],
            "rules": [*rules, _rule(service, backends)],
        },
    }


def routed_backends(route: Manifest | None) -> dict[str, int]:
    """Return what a route sends where: each revision's weight in the weighted rule, its last."""
    rules = (route or {}).get("spec", {}).get("rules") or [{}]
    return {ref["name"]: ref.get("weight", 1) for ref in rules[-1].get("backendRefs", [])}


def _gateway(settings: Settings) -> Manifest:
    namespace = {"namespace": settings.gateway_namespace} if settings.gateway_namespace else {}
    return {
        "group": "gateway.networking.k8s.io",
        "kind": "Gateway",
        "name": settings.gateway_name,
    } | namespace


def _rule(service: InferenceService, backends: Sequence[Backend], *, header: str | None = None) -> Manifest:
    match: Manifest = {"path": {"type": "PathPrefix", "value": service.path}}
    if header:
        match["headers"] = [{"type": "Exact", "name": VARIANT_HEADER, "value": header}]
    strip = {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}
    return {
        "matches": [match],
        "filters": [{"type": "URLRewrite", "urlRewrite": {"path": strip}}],
        "backendRefs": [
            {"group": "", "kind": "Service", "name": b.revision, "port": 80, "weight": b.weight} for b in backends
        ],
        "timeouts": {"request": REQUEST_TIMEOUT},
    }
