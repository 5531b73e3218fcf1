"""Host names: whether they belong to the cluster, to this machine or to neither."""

from __future__ import annotations

import ipaddress


def service_of_host(host: str, namespace: str) -> tuple[str, str] | None:
    """Return name and namespace of the Service that a host name may stand for; None if it cannot be a Service.

    A name with one or two parts may also be a host of the user's own network.
    """
    name, *rest = host.split(".")
    if host == "localhost" or _is_ip_address(host) or (len(rest) > 1 and not is_cluster_name(host)):
        return None
    return name, rest[0] if rest else namespace


def is_cluster_name(host: str) -> bool:
    """Return whether a host name is certainly a Service of the cluster."""
    return host.split(".")[2:3] == ["svc"]


def is_local(host: str) -> bool:
    """Return whether a host name is this machine, which needs no proxy."""
    return host == "localhost" or (_is_ip_address(host) and ipaddress.ip_address(host).is_loopback)


def _is_ip_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
