"""Measurement of engines beside each other, without taking the processors from requests.

Where the system reports it, what counts is the processor's time for the threads of an engine: beside requests, much of
what a clock shows is the time of others.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from bloomery_model import Tensor
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
        sizes: of the batches. One after the other, as most batches of a server have the size of the one before.
        side: of the images.
        pace: at which the engines run.
        seconds: least time of the runs of a size together: a few runs of a small model are not reliable.
        rounds: least number of runs of a size, beside a first one that prepares memory and kernels.
    """
    figures: list[dict[int, float]] = [{} for _ in engines]
    for size in sizes:
        batch = np.zeros((size, 3, side, side), np.float32)
        for own, taken in zip(figures, _take_turns(engines, batch, pace, seconds, rounds), strict=True):
            own[size] = 1000 * taken / size
    return figures


def _take_turns(engines: Sequence[Engine], batch: Tensor, pace: Pace, seconds: float, rounds: int) -> Iterator[float]:
    """Yield the seconds that each engine takes for a batch."""
    by_processor = all(engine.form.name == "OnnxRuntime" or engine.threads for engine in engines)
    taken: list[list[float]] = [[] for _ in engines]
    busy = 0.0
    while len(taken[0]) <= rounds or busy < seconds:
        for engine, own in zip(engines, taken, strict=True):
            processor, elapsed = pace.run(partial(_run_timed, engine, batch))
            own.append(processor if by_processor else elapsed)
            busy += elapsed
    # By the clock, the least is what it takes; all else is what others on this machine took.
    typical = statistics.median if by_processor else min
    return (typical(values[1:]) for values in taken)


def thread_numbers() -> frozenset[int]:
    """Return the numbers of all threads of this process; none on a system that does not report them."""
    try:
        return frozenset(int(path.name) for path in Path("/proc/self/task").iterdir())
    except OSError:
        return frozenset()


def processor_seconds(threads: frozenset[int]) -> float:
    """Return the processor's time for the calling thread and for others so far; one that has ended counts nothing."""
    return time.thread_time() + sum(map(_thread_seconds, threads))


def _thread_seconds(number: int) -> float:
    try:
        # The clock of another thread, as the C library's pthread_getcpuclockid makes it of the thread's number.
        return time.clock_gettime(~number << 3 | 6)
    except OSError:
        return 0.0


def _run_timed(engine: Engine, batch: Tensor) -> float:
    """Run an engine; return the processor's time for it."""
    began = processor_seconds(engine.threads)
    engine.run(batch)
    return processor_seconds(engine.threads) - began


def best_batch(milliseconds: Mapping[int, float]) -> int:
    """Return the size of a batch: the largest for which each image takes clearly less than in the next smaller one."""
    sizes = sorted(milliseconds)
    best = sizes[0]
    for size in sizes[1:]:
        if milliseconds[size] >= milliseconds[best] * MAX_BATCH_COST:
            break
        best = size
    return best
