"""Selection of the images to capture: by chance, for unsure answers, and some of each predicted class."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from bloomery_model.capture import Reason
from bloomery_serving.settings import Settings

_HOUR_SECONDS = 3600


@dataclass(frozen=True, kw_only=True)
class CapturePolicy:
    """What a pod captures.

    Attributes:
        percent: share of all images, by chance.
        low_confidence: images whose likeliest class has a lower score are captured, as are those answered as unknown.
        per_class: images of each predicted class in an hour.
        max_per_hour: images in an hour, for whatever reason.
    """

    percent: float
    low_confidence: float
    per_class: int
    max_per_hour: int

    @classmethod
    def of(cls, settings: Settings) -> CapturePolicy:
        """Return the policy of a server."""
        return cls(
            percent=settings.capture_percent,
            low_confidence=settings.capture_low_confidence,
            per_class=settings.capture_per_class,
            max_per_hour=settings.capture_max_per_hour,
        )


class Selector:
    """Selects images; for one event loop, so that nothing is locked."""

    def __init__(
        self,
        policy: CapturePolicy,
        *,
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """``clock`` returns seconds, and ``chance`` a number from 0 to below 1."""
        self._policy = policy
        self._clock = clock
        self._chance = chance
        self._hour = -1
        self._taken = 0
        self._taken_per_class: Counter[int] = Counter()

    def find_reason(self, label: int, confidence: float, *, is_unknown: bool) -> Reason | None:
        """Return why an image is to be captured, or None.

        The dice come first: those that they choose are a fair sample, by which live accuracy is measured.

        Args:
            label: the number of its likeliest class.
            confidence: the score of that.
            is_unknown: whether it was answered as unknown.
        """
        self._begin_hour()
        if self._chance() * 100 < self._policy.percent:
            return "Random"
        if self._policy.low_confidence and (is_unknown or confidence < self._policy.low_confidence):
            return "LowConfidence"
        return "PerClass" if self._taken_per_class[label] < self._policy.per_class else None

    def acquire(self, label: int, reason: Reason) -> bool:
        """Count an image that is captured; return False if the hour has enough of them."""
        if self._taken >= self._policy.max_per_hour:
            return False
        self._taken += 1
        if reason == "PerClass":
            self._taken_per_class[label] += 1
        return True

    def _begin_hour(self) -> None:
        hour = int(self._clock() // _HOUR_SECONDS)
        if hour != self._hour:
            self._hour, self._taken = hour, 0
            self._taken_per_class.clear()
