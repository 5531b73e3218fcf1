"""Paths on the gateway: their overlap, and the namespaces that may use them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def is_within(path: str, prefix: str) -> bool:
    """Return whether a path is the prefix itself or below it."""
    return f"{path}/".startswith(f"{prefix}/")


def overlap(one: str, other: str) -> bool:
    """Return whether two paths are equal, or one is below the other."""
    return is_within(one, other) or is_within(other, one)


def may_use_path(namespace: str, path: str, grants: Mapping[str, Sequence[str]]) -> bool:
    """Return whether services of a namespace may have a path on the gateway.

    Args:
        namespace: the namespace of the service.
        path: ``spec.path``, or its default.
        grants: by namespace, the prefixes that the administrator granted it. A granted prefix belongs to this
            namespace alone; any other path belongs to the namespace that its first part names.
    """
    owner = next((name for name, prefixes in grants.items() if any(is_within(path, p) for p in prefixes)), None)
    return owner == namespace if owner is not None else is_within(path, f"/{namespace}")


def conflicting_grants(grants: Mapping[str, Sequence[str]]) -> tuple[str, str] | None:
    """Return two prefixes of different namespaces that overlap, or None."""
    granted = [(namespace, prefix) for namespace, prefixes in grants.items() for prefix in prefixes]
    pairs = (
        (prefix, other_prefix)
        for namespace, prefix in granted
        for other_namespace, other_prefix in granted
        if namespace < other_namespace and overlap(prefix, other_prefix)
    )
    return next(pairs, None)
