"""The operator's own endpoints."""

from __future__ import annotations

import asyncio
import socket

import aiohttp
import pytest

from bloomery_operator.health import serve_health
from testing.processes import free_port


@pytest.mark.feature("O6")
@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this kernel has no IPv6")
def test_probes_and_metrics_are_answered_by_both_families() -> None:
    async def ask() -> set[str]:
        health_port, metrics_port = free_port(), free_port()
        endpoints = serve_health(
            health_port=health_port, metrics_port=metrics_port, liveness_error=lambda: None, exposition=lambda: b"ok"
        )
        async with endpoints, aiohttp.ClientSession() as session:
            answers = set()
            for host in ("127.0.0.1", "[::1]"):
                for port, path in ((health_port, "healthz"), (metrics_port, "metrics")):
                    async with session.get(f"http://{host}:{port}/{path}") as response:
                        answers.add(await response.text())
            return answers

    assert asyncio.run(ask()) == {"ok"}
