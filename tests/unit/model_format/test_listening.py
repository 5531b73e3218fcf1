"""Servers that listen by IPv6 and IPv4, or by IPv4 alone where the kernel has no IPv6."""

from __future__ import annotations

import socket

import pytest

from bloomery_model.listening import listen_anywhere

pytestmark = pytest.mark.feature("O6")

has_ipv6 = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this kernel has no IPv6")


@has_ipv6
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_socket_is_reached_by_both_families(address: str) -> None:
    with listen_anywhere(0) as listener:
        socket.create_connection((address, listener.getsockname()[1]), timeout=5).close()


def test_kernel_without_ipv6_gets_ipv4_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with listen_anywhere(0) as listener:
        assert listener.family == socket.AF_INET
        socket.create_connection(("127.0.0.1", listener.getsockname()[1]), timeout=5).close()
