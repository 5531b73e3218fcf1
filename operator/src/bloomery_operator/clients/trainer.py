"""Client of a running trainer pod: reads its progress, and asks it to stop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp
from cachetools import TTLCache

from bloomery_operator.clients.http import read_limited
from bloomery_operator.domain.ports import PROGRESS_PORT
from bloomery_operator.status.trainer_results import read_document
from bloomery_operator.status.workloads import PodView

_TIMEOUT = aiohttp.ClientTimeout(total=2)
_MAX_PROGRESS_BYTES = 64 * 1024


class TrainerClient:
    """Sends requests to trainer pods.

    The progress of a pod is cached for ``poll_seconds``. Progress becomes part of a status, and a changed status
    triggers the next reconcile; without the cache, that one would read new progress and change the status again.
    """

    def __init__(
        self, session: aiohttp.ClientSession, *, poll_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Use an HTTP session, which the caller closes."""
        self._session = session
        self._progress: TTLCache[tuple[str | None, str], Mapping[str, Any], float] = TTLCache(
            math.inf, poll_seconds, timer=clock
        )

    async def read_progress(self, pod: PodView) -> Mapping[str, Any] | None:
        """Return the pod's progress document; None if the pod does not answer with one."""
        key = (pod.ip, pod.name)
        progress = self._progress.get(key)
        if progress is None:
            # An empty document caches that a pod does not answer.
            progress = self._progress[key] = await self._fetch_progress(pod)
        return progress or None

    async def stop(self, pod: PodView, token: str) -> bool:
        """Ask the pod to finish early and keep its results so far; return whether the pod accepted."""
        headers = {"Authorization": f"Bearer {token}"}
        try:
            async with self._session.post(
                _url(pod, "stop"), headers=headers, timeout=_TIMEOUT, allow_redirects=False
            ) as response:
                return response.status == 202
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def _fetch_progress(self, pod: PodView) -> Mapping[str, Any]:
        try:
            async with self._session.get(_url(pod, "progress"), timeout=_TIMEOUT, allow_redirects=False) as response:
                if response.status != 200:
                    return {}
                return read_document(await read_limited(response, _MAX_PROGRESS_BYTES))
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return {}


def _url(pod: PodView, path: str) -> str:
    return f"http://{pod.host}:{PROGRESS_PORT}/{path}"
