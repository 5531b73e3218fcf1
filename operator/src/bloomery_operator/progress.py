"""Talks to a running trainer pod: asks how far it is, tells it to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import aiohttp

from bloomery_operator.resources.jobs import PROGRESS_PORT
from bloomery_operator.status.results import read_document
from bloomery_operator.status.workload import PodView

TIMEOUT = aiohttp.ClientTimeout(total=2)
LARGEST_ANSWER = 64 * 1024


class _Answer(NamedTuple):
    asked: float
    document: Mapping[str, Any] | None


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
        self._every = every
        self._clock = clock
        self._answers: dict[str, _Answer] = {}

    async def read(self, pod: PodView) -> Mapping[str, Any] | None:
        """Return the pod's progress document, or None."""
        self._forget_old()
        key = f"{pod.ip} {pod.name}"
        if key not in self._answers:
            asked = self._clock()
            self._answers[key] = _Answer(asked, await self._ask(pod))
        return self._answers[key].document

    async def stop(self, pod: PodView, token: str) -> bool:
        """Tell the pod to come to its end with what it has; return whether it agreed."""
        headers = {"Authorization": f"Bearer {token}"}
        try:
            async with self._session.post(f"{_address(pod)}/stop", headers=headers, timeout=TIMEOUT) as response:
                return response.status == 202
        except (aiohttp.ClientError, TimeoutError):
            return False

    def _forget_old(self) -> None:
        # The oldest answer is the first in the dict.
        while self._answers:
            key, answer = next(iter(self._answers.items()))
            if self._clock() - answer.asked < self._every:
                return
            del self._answers[key]

    async def _ask(self, pod: PodView) -> Mapping[str, Any] | None:
        try:
            async with self._session.get(f"{_address(pod)}/progress", timeout=TIMEOUT) as response:
                if response.status != 200 or (response.content_length or 0) > LARGEST_ANSWER:
                    return None
                return read_document(await response.read()) or None
        except (aiohttp.ClientError, TimeoutError):
            return None


def _address(pod: PodView) -> str:
    return f"http://{pod.host}:{PROGRESS_PORT}"
