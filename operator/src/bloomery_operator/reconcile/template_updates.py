"""Updates of pod templates after an upgrade: a bounded number of Deployments at a time."""

from __future__ import annotations

import time
from collections.abc import Callable

from bloomery_operator.cluster.kinds import ObjectKey

MAX_UPDATE_SECONDS = 600.0
"""An update that takes longer, perhaps because a namespace has no room for another pod, does not hold up the others."""


class TemplateUpdates:
    """The Deployments that get a changed template now. In memory only: a restarted operator begins the next ones."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with none; ``clock`` returns seconds."""
        self._clock = clock
        self._begun: dict[ObjectKey, float] = {}

    def begin(self, key: ObjectKey, *, limit: int) -> bool:
        """Return whether a Deployment may be updated now, because fewer than ``limit`` others are being updated."""
        now = self._clock()
        self._begun = {k: begun for k, begun in self._begun.items() if now - begun < MAX_UPDATE_SECONDS}
        if key not in self._begun and len(self._begun) >= limit:
            return False
        self._begun.setdefault(key, now)
        return True

    def end(self, key: ObjectKey) -> None:
        """Note that a Deployment has all its pods, of the present template."""
        self._begun.pop(key, None)
