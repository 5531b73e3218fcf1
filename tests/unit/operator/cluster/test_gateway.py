"""The base URL of a Gateway, as users of a service see it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bloomery_operator.cluster.gateway import Gateway
from bloomery_operator.cluster.kinds import ObjectKey, ResourceKind
from tests.unit.operator.samples import Manifest, settings

ALL = {"namespaces": {"from": "All"}}


class OneGateway:
    """A cluster with one Gateway."""

    def __init__(self, gateway: Manifest | None) -> None:
        self.gateway = gateway
        self.reads = 0

    async def get(self, kind: ResourceKind, key: ObjectKey) -> Manifest | None:
        assert (kind.kind, key) == ("Gateway", ObjectKey("gateways", "bloomery"))
        self.reads += 1
        return self.gateway


def listener(protocol: str, port: int, **fields: Any) -> Manifest:
    return {"name": f"{protocol}-{port}".lower(), "protocol": protocol, "port": port, "allowedRoutes": ALL} | fields


def gateway(*listeners: Manifest, address: str = "192.0.2.1") -> Manifest:
    addresses = [{"type": "IPAddress", "value": address}] if address else []
    return {
        "metadata": {"name": "bloomery", "namespace": "gateways"},
        "spec": {"listeners": list(listeners)},
        "status": {"addresses": addresses},
    }


def address(cluster: OneGateway, *, namespace: str = "demo", ask: Gateway | None = None) -> str:
    return asyncio.run((ask or Gateway()).address(cluster, settings(), namespace))  # type: ignore[arg-type]


HTTP, HTTPS = listener("HTTP", 80), listener("HTTPS", 443)
PRIVATE = listener("HTTPS", 443, allowedRoutes={"namespaces": {"from": "Same"}})


@pytest.mark.parametrize(
    ("manifest", "expected"),
    [
        (gateway(HTTP, HTTPS), "https://192.0.2.1"),
        (gateway(HTTPS), "https://192.0.2.1"),
        (gateway(listener("HTTP", 8080), listener("HTTPS", 8443)), "https://192.0.2.1:8443"),
        (gateway(listener("HTTPS", 8443)), "https://192.0.2.1:8443"),
        (gateway(HTTP, address="2001:db8::1"), "http://[2001:db8::1]"),
        (gateway(listener("HTTP", 8080), address="2001:db8::1"), "http://[2001:db8::1]:8080"),
        (gateway(HTTP, address="edge.example.com"), "http://edge.example.com"),
        (gateway(listener("HTTPS", 443, hostname="models.example.com")), "https://models.example.com"),
        (gateway(listener("HTTP", 80, hostname="*.example.com")), "http://192.0.2.1"),
        (gateway(listener("TLS", 443), listener("TCP", 9000)), ""),
        (gateway(listener("HTTP", 80, allowedRoutes=ALL | {"kinds": [{"kind": "GRPCRoute"}]}), HTTPS), "https://192.0.2.1"),
        (gateway(HTTP, address=""), ""),
        (None, ""),
    ],
)  # fmt: skip
def test_base_url_is_that_of_a_listener_that_accepts_routes(manifest: Manifest | None, expected: str) -> None:
    assert address(OneGateway(manifest)) == expected


def test_listener_for_its_own_namespace_has_no_url_elsewhere() -> None:
    cluster, ask = OneGateway(gateway(PRIVATE, HTTP)), Gateway()
    assert address(cluster, ask=ask) == "http://192.0.2.1"
    assert address(cluster, ask=ask, namespace="gateways") == "https://192.0.2.1"
    assert cluster.reads == 1


def test_missing_feature_is_logged_once_and_checked_after_a_resync(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    ask, known = Gateway(clock=lambda: now), settings(resync_seconds=60)
    assert not ask.lacks("timeouts", known)
    with caplog.at_level("INFO"):
        for _ in range(2):
            ask.note_lack("timeouts", "routes have no timeouts")
    assert caplog.messages == ["routes have no timeouts"]
    assert ask.lacks("timeouts", known)
    assert not ask.lacks("percent", known)
    now = 60.0
    assert not ask.lacks("timeouts", known)
