"""Where the Gateway answers."""

from __future__ import annotations

import time
from collections.abc import Callable

from bloomery_operator.cluster.client import Cluster
from bloomery_operator.cluster.kinds import GATEWAYS, Key
from bloomery_operator.settings import Settings


class Gateway:
    """Asks for the Gateway's address, which no watch tells, and remembers it for a while for all services."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Know nothing yet; ``clock`` gives seconds."""
        self._clock = clock
        self._address = ""
        self._asked: float | None = None

    async def address(self, cluster: Cluster, settings: Settings) -> str:
        """Return what stands before a service's path: the address in the settings, else the Gateway's own."""
        if settings.gateway_public_url or not settings.has_gateway:
            return settings.gateway_public_url
        if self._asked is None or self._clock() - self._asked >= settings.obstacle_seconds:
            gateway = await cluster.get(GATEWAYS, Key(settings.gateway_namespace, settings.gateway_name))
            addresses = (gateway or {}).get("status", {}).get("addresses", [])
            self._address = f"http://{addresses[0]['value']}" if addresses else ""
            # One that has no address yet is asked again for each service.
            self._asked = self._clock() if addresses else None
        return self._address
