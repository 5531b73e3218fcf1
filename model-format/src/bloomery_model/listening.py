"""Sockets of servers: on all interfaces by IPv6 and IPv4 together, or by IPv4 alone where the kernel has no IPv6."""

from __future__ import annotations

import socket
from contextlib import suppress

_BACKLOG = 2048


def listen_anywhere(port: int) -> socket.socket:
    """Return a socket that listens on a port of all interfaces, by IPv6 and IPv4.

    Raises:
        OSError: the port is in use.
    """
    if socket.has_dualstack_ipv6():
        # Turned off for this network, IPv6 may fail only now. A port that is in use is refused below, too.
        with suppress(OSError):
            return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG)
    return socket.create_server(("0.0.0.0", port), backlog=_BACKLOG)
