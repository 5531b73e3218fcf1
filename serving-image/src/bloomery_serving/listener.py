"""Listening sockets for all addresses of this machine, of IPv4 and IPv6."""

from __future__ import annotations

import socket

_BACKLOG = 2048


def listen_everywhere(port: int) -> socket.socket:
    """Return a socket that listens on a port of all addresses; without IPv6 on this machine, those of IPv4."""
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", port), family=socket.AF_INET6, backlog=_BACKLOG, dualstack_ipv6=True)
        except OSError:  # IPv6 is compiled in and turned off; a port that is taken is refused below, too
            pass
    return socket.create_server(("", port), backlog=_BACKLOG)
