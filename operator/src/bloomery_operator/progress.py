"""Talks to a running trainer pod: asks how far it is, tells it to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp

from bloomery_operator.answers import RecentAnswers, read_bounded
from bloomery_operator.domain.ports import PROGRESS_PORT
from bloomery_operator.status.trainer_results import read_document
from bloomery_operator.status.workloads import PodView

TIMEOUT = aiohttp.ClientTimeout(total=2)
LARGEST_ANSWER = 64 * 1024


class ProgressClient:
    """Reads ``/progress`` of trainer pods; a pod that does not answer has no progress to tell.

    A pod is asked at most once in ``every`` seconds, and its answer holds that long: progress goes into a status,
    a changed status brings the next reconcile, and that one would find the trainer a step further.
    """

    def __init__(
        self, session: aiohttp.ClientSession, *, every: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Use an HTTP session; the caller closes it."""
        self._session = session
        self._documents: RecentAnswers[tuple[str | None, str], Mapping[str, Any]] = RecentAnswers(every, clock=clock)

    async def read(self, pod: PodView) -> Mapping[str, Any] | None:
        """Return the pod's progress document, or None."""
        key = (pod.ip, pod.name)
        document = self._documents.get(key)
        if document is None:
            # One that does not answer is remembered as well, by an empty document.
            document = self._documents.put(key, await self._ask(pod))
        return document or None

    async def stop(self, pod: PodView, token: str) -> bool:
        """Tell the pod to come to its end with what it has; return whether it agreed."""
        headers = {"Authorization": f"Bearer {token}"}
        try:
            async with self._session.post(
                f"{_address(pod)}/stop", headers=headers, timeout=TIMEOUT, allow_redirects=False
            ) as response:
                return response.status == 202
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def _ask(self, pod: PodView) -> Mapping[str, Any]:
        url = f"{_address(pod)}/progress"
        try:
            async with self._session.get(url, timeout=TIMEOUT, allow_redirects=False) as response:
                return read_document(await read_bounded(response, LARGEST_ANSWER)) if response.status == 200 else {}
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return {}


def _address(pod: PodView) -> str:
    return f"http://{pod.host}:{PROGRESS_PORT}"
