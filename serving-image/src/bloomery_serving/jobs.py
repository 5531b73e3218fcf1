"""Work that requests wait for while threads do it: jobs, a runner of calls, and a watchdog over both."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

from bloomery_serving.fair_queue import ClientTimes, FairQueue

R = TypeVar("R")

_LOW_PRIORITY_NICE = 10
"""A tenth of a processor beside a thread of usual priority that is never idle."""


class Job(Generic[R]):
    """A piece of work of one client, whose outcome an event loop waits for."""

    def __init__(self, client: str) -> None:
        """Create it on the event loop that is to wait for it."""
        self.client = client
        self.is_abandoned = False
        """Whether nobody waits for the outcome any more."""
        self._outcome: asyncio.Future[R] = asyncio.get_running_loop().create_future()

    def complete(self, outcome: R | Exception) -> None:
        """Hand the outcome to the event loop, from a worker's thread."""

        def settle() -> None:
            if self._outcome.done():
                return
            if isinstance(outcome, Exception):
                self._outcome.set_exception(outcome)
            else:
                self._outcome.set_result(outcome)

        with suppress(RuntimeError):  # the loop was closed: the process ends
            self._outcome.get_loop().call_soon_threadsafe(settle)

    async def wait(self, *queues: FairQueue[Any]) -> R:
        """Return the outcome.

        If the waiting task is cancelled, the job leaves the queues. A job that a worker has begun cannot be stopped:
        then this ends only with the work, so that the request counts, with its memory, as long as that goes on.
        """
        try:
            return await asyncio.shield(self._outcome)
        except asyncio.CancelledError:
            self.is_abandoned = True
            if any(queue.remove(self.client, self) for queue in queues):
                self._outcome.cancel()
            elif not self._outcome.done():
                await asyncio.wait((self._outcome,))
            if self._outcome.done() and not self._outcome.cancelled():
                self._outcome.exception()  # nobody else will look at it
            raise


class Watchdog:
    """Knows whether a worker hangs: a GPU or a kernel that never returns raises no exception."""

    def __init__(self, max_seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        """``max_seconds`` is the longest time of one step: an image that is decoded, a batch that is computed."""
        self._max_seconds = max_seconds
        self._clock = clock
        self._began: dict[int, float] = {}

    @contextmanager
    def step(self) -> Iterator[None]:
        """Watch the block, in the thread that runs it."""
        thread = threading.get_ident()
        self._began[thread] = self._clock()
        try:
            yield
        finally:
            del self._began[thread]

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Leave the block out of the step of this thread: it waits for others, and does not hang."""
        thread = threading.get_ident()
        del self._began[thread]
        try:
            yield
        finally:
            self._began[thread] = self._clock()

    @property
    def is_hung(self) -> bool:
        """Whether a step has taken too long."""
        earliest = min(list(self._began.values()), default=None)
        return earliest is not None and self._clock() - earliest > self._max_seconds


def lower_priority() -> None:
    """Let other threads of this process run before the calling one, which may still take what they leave.

    The system shares processors among threads: beside one that parses and one that decodes large images, the worker
    would have a third of a processor.
    """
    if sys.platform == "linux":  # elsewhere, processes alone have a priority
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOW_PRIORITY_NICE)


def lower_priority_of(name: str) -> None:
    """Do the same to the threads with a name that a native library has started; later ones inherit the priority."""
    if sys.platform != "linux":
        return
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # it has ended
            if (task / "comm").read_text().rstrip("\n") == name:
                os.setpriority(os.PRIO_PROCESS, int(task.name), _LOW_PRIORITY_NICE)


class _CallJob(Job[R]):
    """A job that is one function call."""

    def __init__(self, client: str, function: Callable[[], R]) -> None:
        super().__init__(client)
        self.function = function


class CallRunner:
    """Runs calls off the event loop, one at a time and by turns of the clients; lives as long as the process.

    Parsing holds Python's lock, so that more threads would gain nothing. Admission control bounds the queue.
    """

    def __init__(self, watchdog: Watchdog, *, name: str, times: ClientTimes | None = None) -> None:
        """Start the thread; ``times`` are those of other queues of the same clients."""
        self._watchdog = watchdog
        self._pending: FairQueue[_CallJob[Any]] = FairQueue(times)
        threading.Thread(target=self._run, name=name, daemon=True).start()

    async def run(self, client: str, function: Callable[[], R]) -> R:
        """Return the function's result; raise its exception."""
        job = _CallJob(client, function)
        self._pending.put(client, job)
        return await job.wait(self._pending)

    def _run(self) -> None:
        lower_priority()
        while True:
            job = self._pending.get()
            began = time.thread_time()
            try:
                with self._watchdog.step():
                    outcome = job.function()
            except Exception as error:
                outcome = error
            self._pending.charge(job.client, time.thread_time() - began)
            job.complete(outcome)
            del job, outcome  # while the thread waits for the next one, this one's memory is free
