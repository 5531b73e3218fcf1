"""Warnings for namespaces that use the same key of MLflow or of the store, and so must trust each other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import NoReturn

from bloomery_operator.cluster.kinds import OWNERS
from bloomery_operator.reconcile import Context
from bloomery_operator.reconcile.lookups import read_storage_secret

logger = logging.getLogger(__name__)

_MAX_NAMES = 10
_KEYS_OF: Mapping[str, tuple[str, ...]] = {
    "MLflow": (
        "MLFLOW_TRACKING_URI",
        "MLFLOW_TRACKING_TOKEN",
        "MLFLOW_TRACKING_USERNAME",
        "MLFLOW_TRACKING_PASSWORD",
    ),
    "the store": ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID"),
}
"""For each server the variables that are equal in namespaces with the same rights on it."""
_REQUIRED = {"MLflow": "MLFLOW_TRACKING_URI", "the store": "AWS_ACCESS_KEY_ID"}


class SharedKeys:
    """Reads the storage Secrets of all namespaces with objects of ours from time to time."""

    def __init__(self, context: Context) -> None:
        """Start without a warning."""
        self._context = context
        self._last: dict[str, frozenset[frozenset[str]]] = {}

    async def check_forever(self) -> NoReturn:
        """Check after each resync's interval."""
        while True:
            try:
                await self.check()
            except Exception as error:
                # Also an API server that does not answer: without this check, everything else still works.
                logger.debug("the storage Secrets were not compared: %r", error)
            await asyncio.sleep(self._context.settings.resync_seconds)

    async def check(self) -> None:
        """Warn of each group of namespaces that share a key, once until a group changes."""
        cache = self._context.object_cache
        namespaces = sorted({key.namespace for kind in OWNERS for key, _ in cache.items(kind)})
        secrets = {name: await read_storage_secret(self._context, name) for name in namespaces}
        for server in _KEYS_OF:
            groups = _groups(server, secrets)
            for group in groups - self._last.get(server, frozenset()):
                names = sorted(group)
                listed = ", ".join(names[:_MAX_NAMES]) + (", …" if len(names) > _MAX_NAMES else "")
                logger.warning(
                    "%d namespaces use the same address and key of %s, so they must trust each other: %s",
                    len(names),
                    server,
                    listed,
                )
            self._last[server] = groups


def _groups(server: str, secrets: Mapping[str, Mapping[str, str]]) -> frozenset[frozenset[str]]:
    """Return the groups of several namespaces whose Secrets have the same values for a server."""
    members: dict[tuple[str, ...], set[str]] = {}
    for namespace, values in secrets.items():
        if values.get(_REQUIRED[server]):
            members.setdefault(tuple(values.get(name, "").strip() for name in _KEYS_OF[server]), set()).add(namespace)
    return frozenset(frozenset(group) for group in members.values() if len(group) > 1)
