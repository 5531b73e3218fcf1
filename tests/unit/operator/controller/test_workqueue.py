"""The order and the times of reconciles, with a clock that the tests control."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress

import pytest

from bloomery_operator.controller.workqueue import (
    MAX_BACKOFF_SECONDS,
    MIN_BACKOFF_SECONDS,
    WorkerSlots,
    WorkQueue,
)
from bloomery_operator.metrics import OperatorMetrics

Reconcile = Callable[[str], Awaitable[float | None]]


class Clock:
    """Seconds that pass only when set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class QueueDriver:
    """A queue with workers in an event loop of its own, run step by step."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.clock = Clock()
        self.slots = WorkerSlots(0)
        self.queue: WorkQueue[str] = self.loop.run_until_complete(self._make())
        self.reconciled: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def _make(self) -> WorkQueue[str]:
        # A group is an item's first character.
        return WorkQueue(OperatorMetrics(), slots=self.slots, group=lambda item: item[0], clock=self.clock)

    def start_workers(self, reconcile: Reconcile, *, workers: int = 1) -> None:
        for _ in range(workers):
            self.slots.release()
        self.tasks.append(self.loop.create_task(self.queue.work(reconcile)))
        self.run_tasks()

    def run_tasks(self) -> None:
        """Let all tasks run until they wait for something."""

        async def yield_often() -> None:
            for _ in range(500):
                await asyncio.sleep(0)

        self.loop.run_until_complete(yield_often())

    def advance(self, seconds: float) -> None:
        """Let time pass; an extra item wakes the workers, which wait by the clock of the loop."""
        self.clock.now += seconds
        self.queue.add("wake")
        self.run_tasks()

    def add(self, *items: str) -> None:
        for item in items:
            self.queue.add(item)
        self.run_tasks()

    async def record(self, item: str) -> float | None:
        if item != "wake":
            self.reconciled.append(item)
        return None

    def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        for task in self.tasks:
            with suppress(asyncio.CancelledError):
                self.loop.run_until_complete(task)
        self.loop.close()


@pytest.fixture
def driver() -> Iterator[QueueDriver]:
    driver = QueueDriver()
    yield driver
    driver.close()


def test_item_added_many_times_is_reconciled_once(driver: QueueDriver) -> None:
    for item in ("a", "b", "a", "a"):
        driver.queue.add(item)
    driver.start_workers(driver.record)
    assert driver.reconciled == ["a", "b"]


def test_item_added_during_its_reconcile_runs_again_afterwards(driver: QueueDriver) -> None:
    gate = asyncio.Event()
    running: list[str] = []

    async def slow(item: str) -> None:
        running.append(item)
        await gate.wait()
        driver.reconciled.append(item)

    driver.start_workers(slow, workers=3)
    driver.add("a")
    driver.add("a")
    driver.add("a", "b")
    assert running == ["a", "b"]
    gate.set()
    driver.run_tasks()
    assert sorted(driver.reconciled) == ["a", "a", "b"]


def test_failed_item_is_retried_with_exponential_backoff(driver: QueueDriver) -> None:
    async def fail(item: str) -> None:
        if item == "a":
            driver.reconciled.append(item)
            raise RuntimeError("no")

    driver.start_workers(fail)
    driver.add("a")
    waits = [MIN_BACKOFF_SECONDS * 2**n for n in range(8)]
    for tries, wait in enumerate(waits, start=1):
        wait = min(wait, MAX_BACKOFF_SECONDS)
        assert len(driver.reconciled) == tries
        driver.advance(wait - 0.01)
        assert len(driver.reconciled) == tries
        driver.advance(0.02)
        assert len(driver.reconciled) == tries + 1


def test_success_resets_the_backoff(driver: QueueDriver) -> None:
    outcomes = iter([RuntimeError(), RuntimeError(), None, RuntimeError(), None])

    async def now_and_then(item: str) -> None:
        if item == "a":
            driver.reconciled.append(item)
            outcome = next(outcomes)
            if outcome is not None:
                raise outcome

    driver.start_workers(now_and_then)
    driver.add("a")
    driver.advance(MIN_BACKOFF_SECONDS)
    driver.advance(MIN_BACKOFF_SECONDS * 2)
    assert len(driver.reconciled) == 3
    driver.add("a")
    driver.advance(MIN_BACKOFF_SECONDS)
    assert len(driver.reconciled) == 5


def test_returned_delay_requeues_the_item(driver: QueueDriver) -> None:
    async def every_ten(item: str) -> float | None:
        await driver.record(item)
        return 10.0 if item == "a" else None

    driver.start_workers(every_ten)
    driver.add("a")
    driver.advance(9)
    assert driver.reconciled == ["a"]
    driver.advance(1)
    assert driver.reconciled == ["a", "a"]


def test_earliest_of_several_delays_counts_once(driver: QueueDriver) -> None:
    driver.start_workers(driver.record)
    driver.queue.add_after("a", 30)
    driver.queue.add_after("a", 10)
    driver.queue.add_after("a", 20)
    driver.advance(10)
    assert driver.reconciled == ["a"]
    driver.advance(30)
    assert driver.reconciled == ["a"]


def test_event_replaces_a_pending_delay(driver: QueueDriver) -> None:
    driver.start_workers(driver.record)
    driver.queue.add_after("a", 10)
    driver.add("a")
    driver.advance(20)
    assert driver.reconciled == ["a"]


def test_forgotten_item_is_not_reconciled_again(driver: QueueDriver) -> None:
    driver.start_workers(driver.record)
    driver.queue.add_after("a", 10)
    driver.queue.forget("a")
    driver.advance(20)
    assert driver.reconciled == []


@pytest.mark.feature("O7")
def test_groups_take_turns_however_many_items_one_has(driver: QueueDriver) -> None:
    for number in range(100):
        driver.queue.add(f"a{number}")
    driver.queue.add("b1")
    driver.queue.add("b2")
    driver.queue.add("c1")
    driver.start_workers(driver.record)
    assert driver.reconciled[:6] == ["a0", "b1", "c1", "a1", "b2", "a2"]
    assert len(driver.reconciled) == 103


@pytest.mark.feature("O7")
def test_reconcile_that_waits_for_another_server_delays_no_other(driver: QueueDriver) -> None:
    answered = asyncio.Event()

    async def ask(item: str) -> None:
        if item.startswith("hangs"):
            async with driver.slots.released():
                await answered.wait()
        driver.reconciled.append(item)

    driver.start_workers(ask, workers=2)
    driver.add(*(f"hangs-{number}" for number in range(20)), "a", "b")
    assert driver.reconciled == ["a", "b"]
    answered.set()
    driver.run_tasks()
    driver.run_tasks()
    assert len(driver.reconciled) == 22


@pytest.mark.feature("O7")
def test_answer_is_used_only_with_a_free_slot(driver: QueueDriver) -> None:
    answered, busy = asyncio.Event(), asyncio.Event()

    async def work(item: str) -> None:
        if item == "asks":
            async with driver.slots.released():
                await answered.wait()
        else:
            await busy.wait()
        driver.reconciled.append(item)

    driver.start_workers(work, workers=1)
    driver.add("asks", "computes")
    answered.set()
    driver.run_tasks()
    assert driver.reconciled == []
    busy.set()
    driver.run_tasks()
    assert driver.reconciled == ["computes", "asks"]


def test_stale_timers_are_compacted(driver: QueueDriver) -> None:
    async def once_a_day(item: str) -> float | None:
        await driver.record(item)
        return 86400.0

    driver.start_workers(once_a_day)
    for _ in range(20):
        driver.add(*(f"job{number}" for number in range(100)))
        driver.clock.now += 60
    driver.run_tasks()
    assert len(driver.reconciled) == 2000
    assert len(driver.queue._timers) <= 200
    driver.advance(86400)
    assert len(driver.reconciled) == 2100
