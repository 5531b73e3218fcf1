"""Where an address leads, as far as its host name tells: pure."""

from __future__ import annotations

import ipaddress


def service_behind(host: str, namespace: str) -> tuple[str, str] | None:
    """Return name and namespace of the Service that a host name may mean inside the cluster; None where it means none.

    A name of one part or two may as well be one of the user's own network.
    """
    name, *rest = host.split(".")
    if host == "localhost" or _is_number(host) or (len(rest) > 1 and not is_inside(host)):
        return None
    return name, rest[0] if rest else namespace


def is_inside(host: str) -> bool:
    """Whether a host name is certainly one of the cluster."""
    return host.split(".")[2:3] == ["svc"]


def is_here(host: str) -> bool:
    """Whether a host name means this machine, to which no proxy leads."""
    return host == "localhost" or (_is_number(host) and ipaddress.ip_address(host).is_loopback)


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
