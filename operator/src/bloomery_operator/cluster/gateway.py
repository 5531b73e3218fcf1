"""What no watch tells of the gateway: where it answers, and what it takes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from bloomery_operator.api.common import Manifest
from bloomery_operator.cluster.client import Cluster
from bloomery_operator.cluster.kinds import GATEWAYS, HTTP_ROUTES, TRAFFIC_POLICIES, Key
from bloomery_operator.settings import Settings

logger = logging.getLogger(__name__)

_PORTS = {"HTTP": 80, "HTTPS": 443}
"""The protocols that take HTTPRoutes, the preferred one first, and the port that an address need not name."""


class Gateway:
    """Asks for the Gateway, and remembers the answer for a while for all services."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Know nothing yet; ``clock`` gives seconds."""
        self._clock = clock
        self._manifest: Manifest = {}
        self._asked: float | None = None
        self._lacked: float | None = None

    async def address(self, cluster: Cluster, settings: Settings, namespace: str) -> str:
        """Return what stands before the path of a namespace's services: the settings' address, else the Gateway's."""
        if settings.gateway_public_url or not settings.has_gateway:
            return settings.gateway_public_url
        if self._asked is None or self._clock() - self._asked >= settings.obstacle_seconds:
            gateway = await cluster.get(GATEWAYS, Key(settings.gateway_namespace, settings.gateway_name))
            self._manifest = gateway or {}
            # One that has no address yet is asked again for each service.
            self._asked = self._clock() if _host(self._manifest) else None
        return _address(self._manifest, namespace)

    def lacks_policies(self, settings: Settings) -> bool:
        """Whether the cluster was found to have no traffic policies; it is asked again after a resync."""
        return self._lacked is not None and self._clock() - self._lacked < settings.resync_seconds

    def note_lack_of_policies(self) -> None:
        """Note that the cluster has no traffic policies: its gateway is another one than Envoy Gateway."""
        if self._lacked is None:
            logger.info("the cluster has no %s: what a pod loses is not sent again", TRAFFIC_POLICIES.kind)
        self._lacked = self._clock()


def _address(gateway: Manifest, namespace: str) -> str:
    """Return the address at which a Gateway takes routes of a namespace; empty where it has none yet, or takes none."""
    host = _host(gateway)
    within = bool(host) and gateway["metadata"]["namespace"] == namespace
    listeners = [entry for entry in gateway.get("spec", {}).get("listeners", []) if _takes_routes(entry, within=within)]
    if not host or not listeners:
        return ""
    listener = min(listeners, key=lambda entry: list(_PORTS).index(entry["protocol"]))
    protocol, port, name = listener["protocol"], listener["port"], listener.get("hostname", "*")
    suffix = "" if port == _PORTS[protocol] else f":{port}"
    # A listener with a name answers to no other.
    return f"{protocol.lower()}://{host if name.startswith('*') else name}{suffix}"


def _host(gateway: Manifest) -> str:
    """Return a Gateway's first address as an URL has it; empty while it has none."""
    addresses = gateway.get("status", {}).get("addresses", [])
    value: str = addresses[0]["value"] if addresses else ""
    return f"[{value}]" if ":" in value else value


def _takes_routes(listener: Manifest, *, within: bool) -> bool:
    """Whether HTTPRoutes may attach to a listener; ``within`` says that they are of the Gateway's own namespace."""
    allowed = listener.get("allowedRoutes", {})
    source = allowed.get("namespaces", {}).get("from", "Same")
    kinds = [entry["kind"] for entry in allowed.get("kinds", [])] or [HTTP_ROUTES.kind]
    # Whom a selector means is not known here; the route's own condition says whether it was taken.
    is_open = within if source == "Same" else source != "None"
    return listener["protocol"] in _PORTS and HTTP_ROUTES.kind in kinds and is_open
