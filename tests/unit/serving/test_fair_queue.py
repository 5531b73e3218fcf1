"""The order in which workers take the requests of several clients."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections import Counter

import pytest

from bloomery_serving.fair_queue import ClientTimes, FairQueue
from bloomery_serving.jobs import CallRunner, Watchdog

pytestmark = pytest.mark.feature("O7")

SECONDS = 10


def test_clients_with_long_and_short_work_get_equal_time() -> None:
    queue: FairQueue[str] = FairQueue()
    for client in ("long", "short"):
        for _ in range(1000):
            queue.put(client, client)
    served: Counter[str] = Counter()
    for _ in range(202):
        client = queue.get()
        served[client] += 1
        queue.charge(client, 1.0 if client == "long" else 0.01)
    assert served == {"short": 200, "long": 2}


def test_client_that_paused_has_saved_nothing_up() -> None:
    queue: FairQueue[str] = FairQueue()
    for _ in range(100):
        queue.put("steady", "steady")
        queue.get()
        queue.charge("steady", 1)
    for client in ("back", "steady") * 10:
        queue.put(client, client)
    order = []
    for _ in range(10):
        order.append(queue.get())
        queue.charge(order[-1], 1)
    assert 4 <= order.count("back") <= 6


def test_work_in_one_queue_counts_in_those_that_share_its_times() -> None:
    times = ClientTimes()
    parsing, computing = FairQueue[str](times), FairQueue[str](times)
    for client in ("parsed a lot", "light"):
        parsing.put(client, client)
        computing.put(client, client)
    parsing.charge("parsed a lot", 1)

    assert [computing.get(), computing.get()] == ["light", "parsed a lot"]


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own")
def test_parsing_has_a_lower_priority_than_the_rest_of_the_process() -> None:
    runner = CallRunner(Watchdog(SECONDS), name="parse")
    priority = asyncio.run(runner.run("a", lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id())))

    assert priority > os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_first_request_of_a_client_is_the_first_to_go() -> None:
    queue: FairQueue[int] = FairQueue()
    for number in range(5):
        queue.put("a", number)
    assert [queue.get() for _ in range(5)] == [0, 1, 2, 3, 4]
    assert queue.get_nowait() is None


def test_item_is_taken_out_once_and_never_served() -> None:
    queue: FairQueue[int] = FairQueue()
    queue.put("a", 1)
    queue.put("a", 2)
    assert [queue.remove("a", 1), queue.remove("a", 1), queue.remove("b", 2)] == [True, False, False]
    assert queue.get() == 2


def test_call_of_a_client_that_left_early_never_runs() -> None:
    began, may_end, ran = threading.Event(), threading.Event(), []
    runner = CallRunner(Watchdog(SECONDS), name="parse")

    def work() -> bool:
        began.set()
        return may_end.wait(SECONDS)

    async def leave() -> None:
        working = asyncio.ensure_future(runner.run("a", work))
        assert await asyncio.to_thread(began.wait, SECONDS)
        waiting = asyncio.ensure_future(runner.run("a", lambda: ran.append(1)))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait((waiting,))
        assert waiting.cancelled()
        working.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
        assert not working.done()  # the thread is in the middle of it
        may_end.set()
        await asyncio.wait((working,))
        assert working.cancelled()
        assert await runner.run("a", lambda: 7) == 7

    asyncio.run(asyncio.wait_for(leave(), SECONDS))
    assert not ran


def test_error_of_a_call_is_raised_to_its_own_client_alone() -> None:
    runner = CallRunner(Watchdog(SECONDS), name="parse")

    def fail() -> None:
        raise ValueError("wrong")

    async def both() -> list[object]:
        return await asyncio.gather(runner.run("a", fail), runner.run("b", lambda: 1), return_exceptions=True)

    first, second = asyncio.run(both())
    assert (str(first), second) == ("wrong", 1)


def test_worker_hangs_once_a_step_takes_too_long() -> None:
    now = [0.0]
    watchdog = Watchdog(180, clock=lambda: now[0])
    with watchdog.step():
        now[0] = 180
        assert not watchdog.is_hung
        now[0] = 181
        assert watchdog.is_hung
    assert not watchdog.is_hung
