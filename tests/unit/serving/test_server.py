"""Settings of the HTTP server that depend on the cluster's network."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import uvicorn

from bloomery_model.lineage import Lineage
from bloomery_serving import server
from bloomery_serving.identity import ModelIdentity
from bloomery_serving.settings import Settings

ENVOY_IDLE_SECONDS = 3600
"""Envoy's default limit for an idle connection to a pod."""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> tuple[uvicorn.Config, list[socket.socket]]:
    """The configuration and the sockets with which the server starts."""
    calls: list[tuple[uvicorn.Config, list[socket.socket]]] = []

    def run(self: uvicorn.Server, sockets: list[socket.socket]) -> None:
        calls.append((self.config, sockets))

    monkeypatch.setattr(uvicorn.Server, "run", run)
    monkeypatch.setattr(server, "create_app", lambda *_, **__: None)
    settings = Settings(model_uri="file:///model", port=0, metrics_port=0)
    model: Any = None
    server.serve(settings, model, ModelIdentity.resolve(settings, Lineage(), digest="sha256:1"))
    (call,) = calls
    return call


@pytest.mark.feature("O6")
def test_idle_connection_is_kept_for_longer_than_the_gateway_keeps_it(
    started: tuple[uvicorn.Config, list[socket.socket]],
) -> None:
    assert started[0].timeout_keep_alive > ENVOY_IDLE_SECONDS


@pytest.mark.feature("O6")
@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this kernel has no IPv6")
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_server_listens_by_both_families(address: str, started: tuple[uvicorn.Config, list[socket.socket]]) -> None:
    (listener,) = started[1]
    with listener:
        socket.create_connection((address, listener.getsockname()[1]), timeout=5).close()
