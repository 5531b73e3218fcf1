"""The life of the process: settings of the HTTP server for the cluster's network, signals, and ports in use."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from bloomery_model.lineage import Lineage
from bloomery_model.listening import listen_anywhere
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


@pytest.fixture
def sigterm_handler() -> Iterator[None]:
    """The handler of this process, which is put back."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


@pytest.mark.usefixtures("sigterm_handler")
def test_signal_between_the_load_and_the_server_ends_the_process_well(monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[str] = []

    def serve(*_: object) -> None:
        signal.raise_signal(signal.SIGTERM)
        ends.append("the signal was ignored")

    monkeypatch.setenv("MODEL_URI", "file:///model")
    monkeypatch.setenv("PORT", "0")
    monkeypatch.setattr(server, "load", lambda *_: (None, None))
    monkeypatch.setattr(server, "serve", serve)
    with pytest.raises(SystemExit) as ended:
        server.run()
    assert (ended.value.code, ends) == (0, [])


@pytest.mark.usefixtures("sigterm_handler")
@pytest.mark.parametrize("variable", ["PORT", "METRICS_PORT"])
def test_port_in_use_ends_the_server_with_a_sentence(
    variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = Settings(model_uri="file:///model")
    identity = ModelIdentity.resolve(settings, Lineage(), digest="sha256:1")
    monkeypatch.setattr(server, "load", lambda *_: (None, identity))
    monkeypatch.setattr(server, "create_app", lambda *_, **__: None)
    monkeypatch.setattr(uvicorn.Server, "run", lambda *_, **__: None)
    with listen_anywhere(0) as taken:
        port = taken.getsockname()[1]
        ports = {"PORT": "0", "METRICS_PORT": "0"} | {variable: str(port)}
        environment = ports | {"MODEL_URI": "file:///model", "TERMINATION_LOG": str(tmp_path / "log")}
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        assert server.run() == 1
    document = json.loads((tmp_path / "log").read_text())["error"]
    assert document["reason"] == "BadSettings"
    assert f"{variable} ({port})" in document["message"]
