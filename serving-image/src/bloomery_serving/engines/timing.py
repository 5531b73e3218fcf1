"""Measurement of engines beside each other, without taking the processors from requests."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import numpy as np

from bloomery_serving.engines.base import Engine

T = TypeVar("T")

MAX_BATCH_COST = 0.95
"""Time for an image in a batch, as a share of its time in the next smaller one, beyond which the larger batch is not
worth the wait."""


class TookTooLong(Exception):
    """A measurement did not end in its time; the message is a sentence without its full stop."""


class Pace:
    """Runs work of the background: rests after each piece for as long as it took, so that requests come first."""

    def __init__(
        self,
        max_seconds: float,
        *,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """``max_seconds`` is the time for all of the work."""
        self._max_seconds = max_seconds
        self._clock = clock
        self._sleep = sleep
        self._end = clock() + max_seconds

    def run(self, work: Callable[[], T]) -> tuple[T, float]:
        """Return the result of a piece of work, and the seconds that it took.

        Raises:
            TookTooLong: the time is over.
        """
        began = self._clock()
        if began > self._end:
            raise TookTooLong(f"its measurement did not end within {self._max_seconds:g} s")
        result = work()
        seconds = self._clock() - began
        self._sleep(seconds)
        return result, seconds


def unpaced() -> Pace:
    """Return the pace of work that nobody is disturbed by: no rests, and any time."""
    return Pace(float("inf"), sleep=lambda _: None)


def measure(
    engines: Sequence[Engine], *, sizes: Sequence[int], side: int, pace: Pace, seconds: float, rounds: int
) -> list[dict[int, float]]:
    """Return the milliseconds for an image by the size of its batch, of each engine; they are measured by turns.

    Args:
        engines: what is measured.
        sizes: of the batches.
        side: of the images.
        pace: at which the engines run.
        seconds: least time of the runs together: the best of a few runs of a small model is not reliable.
        rounds: least number of runs of each size, beside a first one that prepares memory and kernels.
    """
    batches = {size: np.zeros((size, 3, side, side), np.float32) for size in sizes}
    taken: list[dict[int, list[float]]] = [{size: [] for size in sizes} for _ in engines]
    busy, done = 0.0, 0
    while done <= rounds or busy < seconds:
        for engine, own in zip(engines, taken, strict=True):
            for size, batch in batches.items():
                _, used = pace.run(partial(engine.run, batch))
                own[size].append(used / size)
                busy += used
        done += 1
    # The least is what it takes; all else is what others on this machine took.
    return [{size: 1000 * min(values[1:]) for size, values in own.items()} for own in taken]


def best_batch(milliseconds: Mapping[int, float]) -> int:
    """Return the size of a batch: the largest for which each image takes clearly less than in the next smaller one."""
    sizes = sorted(milliseconds)
    best = sizes[0]
    for size in sizes[1:]:
        if milliseconds[size] >= milliseconds[best] * MAX_BATCH_COST:
            break
        best = size
    return best
