"""Asks a running trainer pod how far it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import aiohttp

from bloomery_operator.resources.jobs import PROGRESS_PORT
from bloomery_operator.status.results import read_document
from bloomery_operator.status.workload import PodView

TIMEOUT = aiohttp.ClientTimeout(total=2)
LARGEST_ANSWER = 64 * 1024


class ProgressClient:
    """Reads ``/progress`` of trainer pods; a pod that does not answer has no progress to tell."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        """Use an HTTP session; the caller closes it."""
        self._session = session

    async def read(self, pod: PodView) -> Mapping[str, Any] | None:
        """Return the pod's progress document, or None."""
        host = f"[{pod.ip}]" if pod.ip and ":" in pod.ip else pod.ip
        try:
            async with self._session.get(f"http://{host}:{PROGRESS_PORT}/progress", timeout=TIMEOUT) as response:
                if response.status != 200 or (response.content_length or 0) > LARGEST_ANSWER:
                    return None
                return read_document(await response.read()) or None
        except (aiohttp.ClientError, TimeoutError):
            return None
