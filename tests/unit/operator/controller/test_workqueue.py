"""The queue: who is worked on when, with a clock that the tests turn."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress

import pytest

from bloomery_operator.controller.workqueue import FIRST_BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS, WorkQueue
from bloomery_operator.metrics import OperatorMetrics

Reconcile = Callable[[str], Awaitable[float | None]]


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """A queue with workers in an event loop of its own, driven step by step."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.clock = Clock()
        self.queue: WorkQueue[str] = self.loop.run_until_complete(self._make())
        self.worked: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def _make(self) -> WorkQueue[str]:
        return WorkQueue(OperatorMetrics(), clock=self.clock)

    def hire(self, reconcile: Reconcile, *, workers: int = 1) -> None:
        self.tasks += [self.loop.create_task(self.queue.work(reconcile)) for _ in range(workers)]
        self.turn()

    def turn(self) -> None:
        """Let all tasks run until they wait for something."""

        async def yield_often() -> None:
            for _ in range(20):
                await asyncio.sleep(0)

        self.loop.run_until_complete(yield_often())

    def later(self, seconds: float) -> None:
        """Let time pass; a key of no meaning wakes the workers, who wait by the loop's own clock."""
        self.clock.now += seconds
        self.queue.add("wake")
        self.turn()

    def add(self, *items: str) -> None:
        for item in items:
            self.queue.add(item)
        self.turn()

    async def note(self, item: str) -> float | None:
        if item != "wake":
            self.worked.append(item)
        return None

    def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        for task in self.tasks:
            with suppress(asyncio.CancelledError):
                self.loop.run_until_complete(task)
        self.loop.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def test_many_wishes_before_the_work_count_once(bench: Bench) -> None:
    for item in ("a", "b", "a", "a"):
        bench.queue.add(item)
    bench.hire(bench.note)
    assert bench.worked == ["a", "b"]


def test_one_key_is_never_worked_on_twice_at_a_time_but_again_afterwards(bench: Bench) -> None:
    gate = asyncio.Event()
    at_work: list[str] = []

    async def slow(item: str) -> None:
        at_work.append(item)
        await gate.wait()
        bench.worked.append(item)

    bench.hire(slow, workers=3)
    bench.add("a")
    bench.add("a")
    bench.add("a", "b")
    assert at_work == ["a", "b"]
    gate.set()
    bench.turn()
    assert sorted(bench.worked) == ["a", "a", "b"]


def test_failures_are_tried_again_after_ever_longer_times(bench: Bench) -> None:
    async def fail(item: str) -> None:
        if item == "a":
            bench.worked.append(item)
            raise RuntimeError("no")

    bench.hire(fail)
    bench.add("a")
    waits = [FIRST_BACKOFF_SECONDS * 2**n for n in range(8)]
    for tries, wait in enumerate(waits, start=1):
        wait = min(wait, LONGEST_BACKOFF_SECONDS)
        assert len(bench.worked) == tries
        bench.later(wait - 0.01)
        assert len(bench.worked) == tries
        bench.later(0.02)
        assert len(bench.worked) == tries + 1


def test_a_success_forgives_the_failures_before(bench: Bench) -> None:
    outcomes = iter([RuntimeError(), RuntimeError(), None, RuntimeError(), None])

    async def now_and_then(item: str) -> None:
        if item == "a":
            bench.worked.append(item)
            outcome = next(outcomes)
            if outcome is not None:
                raise outcome

    bench.hire(now_and_then)
    bench.add("a")
    bench.later(FIRST_BACKOFF_SECONDS)
    bench.later(FIRST_BACKOFF_SECONDS * 2)
    assert len(bench.worked) == 3
    bench.add("a")
    bench.later(FIRST_BACKOFF_SECONDS)
    assert len(bench.worked) == 5


def test_who_asks_to_be_called_again_is_called_then(bench: Bench) -> None:
    async def every_ten(item: str) -> float | None:
        await bench.note(item)
        return 10.0 if item == "a" else None

    bench.hire(every_ten)
    bench.add("a")
    bench.later(9)
    assert bench.worked == ["a"]
    bench.later(1)
    assert bench.worked == ["a", "a"]


def test_the_earliest_of_several_times_counts_once(bench: Bench) -> None:
    bench.hire(bench.note)
    bench.queue.add_after("a", 30)
    bench.queue.add_after("a", 10)
    bench.queue.add_after("a", 20)
    bench.later(10)
    assert bench.worked == ["a"]
    bench.later(30)
    assert bench.worked == ["a"]


def test_an_event_before_the_time_replaces_it(bench: Bench) -> None:
    bench.hire(bench.note)
    bench.queue.add_after("a", 10)
    bench.add("a")
    bench.later(20)
    assert bench.worked == ["a"]


def test_what_is_gone_is_not_called_again(bench: Bench) -> None:
    bench.hire(bench.note)
    bench.queue.add_after("a", 10)
    bench.queue.forget("a")
    bench.later(20)
    assert bench.worked == []


def test_events_of_a_day_leave_no_timers_behind(bench: Bench) -> None:
    async def once_a_day(item: str) -> float | None:
        await bench.note(item)
        return 86400.0

    bench.hire(once_a_day)
    for _ in range(20):
        bench.add(*(f"job{number}" for number in range(100)))
        bench.clock.now += 60
    bench.turn()
    assert len(bench.worked) == 2000
    assert len(bench.queue._timers) <= 200
    bench.later(86400)
    assert len(bench.worked) == 2100
