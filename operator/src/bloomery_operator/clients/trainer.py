"""Client of a running trainer pod: reads its progress, and asks it to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp
from cachetools import TTLCache

from bloomery_operator.clients.http import CircuitBreaker, PodRequest, ReleasedSlot, fetch_from_pod, no_slot
from bloomery_operator.domain.ports import PROGRESS_PORT
from bloomery_operator.status.trainer_results import read_document
from bloomery_operator.status.workloads import PodView

_TIMEOUT_SECONDS = 2.0
_TIMEOUT = aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)
_MAX_PROGRESS_BYTES = 64 * 1024
_MAX_CACHED_PODS = 10_000


class TrainerClient:
    """Sends requests to trainer pods.

    The progress of a pod is cached for ``poll_seconds``. Progress becomes part of a status, and a changed status
    triggers the next reconcile; without the cache, that one would read new progress and change the status again.
    A pod that does not answer is asked more and more rarely.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        poll_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        released_slot: ReleasedSlot = no_slot,
    ) -> None:
        """Use an HTTP session, which the caller closes."""
        self._session = session
        self._released_slot = released_slot
        self._circuits = CircuitBreaker(open_seconds=poll_seconds, probe_seconds=_TIMEOUT_SECONDS, clock=clock)
        self._progress: TTLCache[str, Mapping[str, Any], float] = TTLCache(_MAX_CACHED_PODS, poll_seconds, timer=clock)

    async def read_progress(self, pod: PodView) -> Mapping[str, Any] | None:
        """Return the pod's progress document; None if the pod does not answer with one."""
        progress = self._progress.get(pod.uid)
        if progress is None:
            # An empty document caches that a pod does not answer.
            progress = self._progress[pod.uid] = await self._fetch_progress(pod)
        return progress or None

    async def stop(self, pod: PodView, token: str) -> bool:
        """Ask the pod to finish early and keep its results so far; return whether the pod accepted."""
        headers = {"Authorization": f"Bearer {token}"}
        request = PodRequest(method="POST", url=_url(pod, "stop"), headers=headers, max_bytes=_MAX_PROGRESS_BYTES)
        try:
            with self._circuits.guard(pod.uid):
                return await self._request(request) is not None
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return False

    async def _fetch_progress(self, pod: PodView) -> Mapping[str, Any]:
        try:
            with self._circuits.guard(pod.uid):
                content = await self._request(PodRequest(url=_url(pod, "progress"), max_bytes=_MAX_PROGRESS_BYTES))
            return read_document(content) if content is not None else {}
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return {}

    async def _request(self, request: PodRequest) -> bytes | None:
        async with self._released_slot():
            return await fetch_from_pod(self._session, request, timeout=_TIMEOUT)


def _url(pod: PodView, path: str) -> str:
    return f"http://{pod.host}:{PROGRESS_PORT}/{path}"
