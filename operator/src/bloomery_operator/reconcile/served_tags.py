"""Takes the tags of services that are gone off the registry's models, apart from the work that must not wait for it."""

from __future__ import annotations

import asyncio
import logging

from bloomery_operator.reconcile.context import Context
from bloomery_operator.reconcile.models import forget_served

logger = logging.getLogger(__name__)

NAMESPACE_SECONDS = 60.0
"""What one namespace may take; a registry that answers little by little must not keep the others waiting."""


class ServedTags:
    """Looks at one namespace after the other, each as often as somebody asked for it since it was looked at last."""

    def __init__(self, context: Context) -> None:
        """Start with nothing to look at."""
        self._context = context
        self._namespaces: dict[str, None] = {}
        self._asked = asyncio.Event()

    def look_at(self, namespace: str) -> None:
        """Ask for a namespace to be looked at; asking again before that counts once."""
        self._namespaces[namespace] = None
        self._asked.set()

    async def tidy_forever(self) -> None:
        """Look at what is asked for; never ends. What fails is left to the next resync."""
        while True:
            await self._asked.wait()
            namespace = next(iter(self._namespaces))
            del self._namespaces[namespace]
            if not self._namespaces:
                self._asked.clear()
            try:
                async with asyncio.timeout(NAMESPACE_SECONDS):
                    await forget_served(self._context, namespace)
            except Exception as error:
                logger.warning("the models' tags of namespace %s could not be tidied: %r", namespace, error)
