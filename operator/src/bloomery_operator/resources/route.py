"""The HTTPRoute that spreads a service's traffic over its variants (Gateway API v1), and its policy of retries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bloomery_operator.api import InferenceService
from bloomery_operator.api.common import Manifest
from bloomery_operator.resources.metadata import child_metadata
from bloomery_operator.settings import Settings

VARIANT_HEADER = "X-Variant"
REQUEST_TIMEOUT = "60s"
"""Of a request with all its tries: no try has an end of its own, as the first prediction of a pod may be slow."""
RETRIES = 2
RETRIED = ("connect-failure", "refused-stream", "reset")
"""A pod that is gone or breaks off without any answer; what a pod answers, 429 and 5xx too, is the answer."""


WHOLE = 10_000
"""All of the traffic: shares are hundredths of a percent, so that a tenth of a tenth is still a whole number."""


@dataclass(frozen=True)
class Backend:
    """A revision on the route: the variant that it answers for, and its share of the traffic."""

    variant: str
    revision: str
    weight: int


@dataclass(frozen=True)
class Mirror:
    """A revision that gets a copy of the traffic, in percent."""

    revision: str
    percent: int


@dataclass(frozen=True)
class Traffic:
    """What the gateway is to send where."""

    backends: tuple[Backend, ...] = ()
    direct: Mapping[str, str] = field(default_factory=dict)
    """For each variant the revision that its header picks."""
    mirrors: tuple[Mirror, ...] = ()


def build_route(service: InferenceService, traffic: Traffic, settings: Settings) -> Manifest:
    """Return the route: a rule for each variant by header first, then the weighted one."""
    rules = [_rule(service, [_backend(name, 1)], header=variant) for variant, name in traffic.direct.items()]
    weighted = [_backend(b.revision, b.weight) for b in traffic.backends]
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": child_metadata(service, name=service.metadata.name, role="serve"),
        "spec": {
            "parentRefs": [_gateway(settings)],
            "rules": [*rules, _rule(service, weighted, mirrors=traffic.mirrors)],
        },
    }


def build_retries(service: InferenceService) -> Manifest:
    """Return Envoy Gateway's policy that sends a request that a pod lost to another one; a prediction changes nothing.

    It is merged into a policy of the whole Gateway, which it would replace otherwise.
    """
    route = {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": service.metadata.name}
    return {
        "apiVersion": "gateway.envoyproxy.io/v1alpha1",
        "kind": "BackendTrafficPolicy",
        "metadata": child_metadata(service, name=service.metadata.name, role="serve"),
        "spec": {
            "targetRefs": [route],
            "mergeType": "StrategicMerge",
            "retry": {"numRetries": RETRIES, "retryOn": {"triggers": list(RETRIED)}},
        },
    }


def routed_backends(route: Manifest | None) -> dict[str, int]:
    """Return what a route sends where: each revision's weight in the weighted rule, its last."""
    rules = (route or {}).get("spec", {}).get("rules") or [{}]
    return {ref["name"]: ref.get("weight", 1) for ref in rules[-1].get("backendRefs", [])}


def routed_names(route: Manifest | None) -> frozenset[str]:
    """Return every revision that a route names: by weight, by header or as a shadow."""
    rules = (route or {}).get("spec", {}).get("rules") or []
    weighted = (ref["name"] for rule in rules for ref in rule.get("backendRefs", []))
    filters = (entry for rule in rules for entry in rule.get("filters", []))
    mirrored = (entry["requestMirror"]["backendRef"]["name"] for entry in filters if "requestMirror" in entry)
    return frozenset([*weighted, *mirrored])


def _gateway(settings: Settings) -> Manifest:
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
        "filters": [{"type": "URLRewrite", "urlRewrite": {"path": strip}}, *map(_mirror, mirrors)],
        "backendRefs": list(backends),
        "timeouts": {"request": REQUEST_TIMEOUT},
    }


def _reference(revision: str) -> Manifest:
    return {"group": "", "kind": "Service", "name": revision, "port": 80}


def _backend(revision: str, weight: int) -> Manifest:
    return _reference(revision) | {"weight": weight}


def _mirror(mirror: Mirror) -> Manifest:
    copy = {"backendRef": _reference(mirror.revision), "percent": mirror.percent}
    return {"type": "RequestMirror", "requestMirror": copy}
