"""Reads the Gateway: its public address, and the routes that its listeners accept."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from bloomery_operator.api.base import Manifest
from bloomery_operator.cluster.client import Cluster
from bloomery_operator.cluster.kinds import GATEWAYS, HTTP_ROUTES, ObjectKey
from bloomery_operator.settings import Settings

logger = logging.getLogger(__name__)

_DEFAULT_PORTS = {"HTTPS": 443, "HTTP": 80}
"""Protocols of the listeners that accept HTTPRoutes, the preferred one first, with the default port of each: over HTTP,
everyone on the way reads the keys."""
RETRIES = "retries"
"""Feature of a gateway: traffic policies, by which it retries requests."""


class Gateway:
    """Caches the Gateway for all services."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with an empty cache; ``clock`` returns seconds."""
        self._clock = clock
        self._manifest: Manifest = {}
        self._read_at: float | None = None
        self._lacks_noted_at: dict[str, float] = {}

    async def address(self, cluster: Cluster, settings: Settings, namespace: str) -> str:
        """Return the base URL of a namespace's services: the one in the settings, or else the Gateway's."""
        if settings.gateway_public_url or not settings.has_gateway:
            return settings.gateway_public_url
        if self._read_at is None or self._clock() - self._read_at >= settings.retry_interval_seconds:
            gateway = await cluster.get(GATEWAYS, ObjectKey(settings.gateway_namespace, settings.gateway_name))
            self._manifest = gateway or {}
            # A Gateway without an address is not cached.
            self._read_at = self._clock() if _host(self._manifest) else None
        return _base_url(self._manifest, namespace)

    def lacks(self, feature: str, settings: Settings) -> bool:
        """Return whether the cluster is known to lack a feature; this is checked again after a resync."""
        noted_at = self._lacks_noted_at.get(feature)
        return noted_at is not None and self._clock() - noted_at < settings.resync_seconds

    def note_lack(self, feature: str, consequence: str) -> None:
        """Note that the cluster's gateway lacks a feature; the first time, log the consequence."""
        if feature not in self._lacks_noted_at:
            logger.info("%s", consequence)
        self._lacks_noted_at[feature] = self._clock()


def _base_url(gateway: Manifest, namespace: str) -> str:
    """Return the URL at which a Gateway accepts routes of a namespace; empty if there is none yet."""
    host = _host(gateway)
    is_same_namespace = bool(host) and gateway["metadata"]["namespace"] == namespace
    listeners = [
        entry
        for entry in gateway.get("spec", {}).get("listeners", [])
        if _accepts_routes(entry, is_same_namespace=is_same_namespace)
    ]
    if not host or not listeners:
        return ""
    listener = min(listeners, key=lambda entry: list(_DEFAULT_PORTS).index(entry["protocol"]))
    protocol, port, name = listener["protocol"], listener["port"], listener.get("hostname", "*")
    suffix = "" if port == _DEFAULT_PORTS[protocol] else f":{port}"
    # A listener with a host name accepts no other host.
    return f"{protocol.lower()}://{host if name.startswith('*') else name}{suffix}"


def _host(gateway: Manifest) -> str:
    """Return a Gateway's first address in the form of a URL; empty while it has none."""
    addresses = gateway.get("status", {}).get("addresses", [])
    value: str = addresses[0]["value"] if addresses else ""
    return f"[{value}]" if ":" in value else value


def _accepts_routes(listener: Manifest, *, is_same_namespace: bool) -> bool:
    """Return whether HTTPRoutes may attach to a listener, from the Gateway's own namespace or from another one."""
    allowed = listener.get("allowedRoutes", {})
    source = allowed.get("namespaces", {}).get("from", "Same")
    kinds = [entry["kind"] for entry in allowed.get("kinds", [])] or [HTTP_ROUTES.kind]
    # The namespaces of a selector are not known here; the condition of the route shows whether it was accepted.
    is_open = is_same_namespace if source == "Same" else source != "None"
    return listener["protocol"] in _DEFAULT_PORTS and HTTP_ROUTES.kind in kinds and is_open
