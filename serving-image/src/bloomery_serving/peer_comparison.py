"""Comparison of some answers with those of the pods that this one's model replaces, beside the requests.

A request never waits for it: at most two images a second are sent, and what finds no room in the queue is left out.
"""

from __future__ import annotations

import http.client
import json
import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, Counter

from bloomery_serving.about import About
from bloomery_serving.fault_log import FaultLog

logger = logging.getLogger(__name__)

PATH = "/compare"
IMAGES_PER_SECOND = 2.0
_QUEUE_SIZE = 4
_TIMEOUT_SECONDS = 5.0
_MAX_ANSWER_BYTES = 64 * 1024
_PAUSE_SECONDS = 1.0
"""Pause after the peer did not answer."""


class ComparisonError(Exception):
    """The peer does not give the class of an image."""


@dataclass(frozen=True)
class _Comparison:
    peer: str
    data: bytes
    label: str


class ComparisonMetrics:
    """Counters of compared images."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._compared = Counter(
            "bloomery_compared_images", "Images whose class was compared with that of the replaced model.",
            registry=registry,
        )  # fmt: skip
        self._disagreements = Counter(
            "bloomery_disagreements", "Compared images for which the replaced model has another class.",
            registry=registry,
        )  # fmt: skip
        self.failures = Counter(
            "bloomery_failed_comparisons", "Images for which the replaced model's pods gave no class.",
            registry=registry,
        )  # fmt: skip

    def count(self, *, agree: bool) -> None:
        """Count a compared image."""
        # In this order: the share of disagreements is never more than 1, whenever it is read.
        self._compared.inc()
        if not agree:
            self._disagreements.inc()


class PeerComparison:
    """Asks pods of the replaced model for the classes of some images, and counts those that differ."""

    def __init__(
        self, about: About, *, token: str, registry: CollectorRegistry, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start the thread that asks.

        Args:
            about: names the peer, if there is one.
            token: that the peer requires.
            registry: of the counters.
            clock: returns seconds.
        """
        self._about = about
        self._token = token
        self._clock = clock
        self._next = float("-inf")
        self._faults = FaultLog(logger, end="the peer answers again")
        self._waiting: queue.Queue[_Comparison] = queue.Queue(_QUEUE_SIZE)
        self._metrics = ComparisonMetrics(registry)
        threading.Thread(target=self._run, name="compare", daemon=True).start()

    def offer(self, data: bytes, label: str) -> None:
        """Compare an answered image if there is a peer, and the last one was long enough ago; never wait."""
        peer, now = self._about.peer, self._clock()
        if not peer or now < self._next:
            return
        self._next = now + 1 / IMAGES_PER_SECOND
        with suppress(queue.Full):
            self._waiting.put_nowait(_Comparison(peer, data, label))

    def _run(self) -> None:
        while True:
            comparison = self._waiting.get()
            try:
                self._compare(comparison)
            except Exception as error:
                self._metrics.failures.inc()
                # The text of another error may have the token.
                is_known = isinstance(error, ComparisonError | OSError | http.client.HTTPException)
                reason = str(error) if is_known else type(error).__name__
                self._faults.report(f"{comparison.peer} gives no class to compare with: {reason}")
                time.sleep(_PAUSE_SECONDS)
            del comparison  # its memory is free while the thread waits

    def _compare(self, comparison: _Comparison) -> None:
        other = ask(comparison.peer, comparison.data, token=self._token)
        self._faults.clear()
        self._metrics.count(agree=other == comparison.label)


def ask(peer: str, data: bytes, *, token: str) -> str:
    """Return the class that a pod of another model gives an image.

    Args:
        peer: the address, http://HOST:PORT.
        data: the image's file.
        token: that the peer requires.

    Raises:
        ComparisonError: the answer has no class.
        OSError: the peer cannot be reached.
        http.client.HTTPException: the answer is not HTTP.
    """
    address = urlsplit(peer)
    # Not by urllib.request, which would send it through a proxy.
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=_TIMEOUT_SECONDS)
    with closing(connection):
        connection.request("POST", PATH, data, {"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        content = answer.read(_MAX_ANSWER_BYTES)
    if answer.status != 200:
        raise ComparisonError(f"status {answer.status}")
    try:
        return str(json.loads(content)["label"])
    except (ValueError, LookupError, TypeError) as error:
        raise ComparisonError("the answer has no label") from error
