"""A process pool for large datasets, a thread pool for small ones.

Inspecting a small image takes as much time in Python as in the decoder, and the threads of one process share one
interpreter lock.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any, TypeVar

from bloomery_model.cgroup import cpu_count, memory_bytes
from bloomery_model.parallel import bounded_map
from bloomery_trainer.errors import Unavailable

State = TypeVar("State")
Item = TypeVar("Item")
Result = TypeVar("Result")

_MIN_IMAGES_FOR_PROCESSES = 2000
"""With fewer images, starting processes takes longer than they save."""

_MAX_WORKERS = 16
_WORKER_MEMORY_BYTES = 512 * 1024 * 1024
"""For each worker with the images that it holds: a pod may see many processors and little memory."""

_WORKER_MODULES = ["bloomery_trainer.prepare.inspect", "bloomery_trainer.prepare.pack"]
"""Modules of the functions that workers call."""


class WorkerPool:
    """Workers that call one function for many items."""

    def __init__(self, executor: Executor, workers: int, *, use_processes: bool) -> None:
        self._executor = executor
        self._workers = workers
        self._use_processes = use_processes

    def map(
        self, function: Callable[[State, Item], Result], shared_state: State, items: Iterable[Item]
    ) -> Iterator[Result]:
        """Yield ``function(shared_state, item)`` for each item, in order; a process unpickles the state only once.

        Raises:
            Unavailable: a worker process died.
        """
        call: Callable[[Item], Result] = partial(function, shared_state)
        if self._use_processes:
            call = partial(_call_with_pickled_state, pickle.dumps(shared_state), function)
        try:
            yield from bounded_map(self._executor, call, items, limit=2 * self._workers)
        except BrokenProcessPool as error:
            raise Unavailable(
                "WorkerLost", "a process that reads images was killed; the pod may have too little memory"
            ) from error


@contextmanager
def open_worker_pool(images: int) -> Iterator[WorkerPool]:
    """Start the workers for a number of images, and stop them at the end."""
    workers = max(1, min(cpu_count(), _MAX_WORKERS, memory_bytes() // _WORKER_MEMORY_BYTES))
    use_processes = workers > 1 and images >= _MIN_IMAGES_FOR_PROCESSES
    executor: Executor
    if use_processes:
        # A fork of this process would lack the threads of the store's client; a server without any forks the workers,
        # which share its modules.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__, *_WORKER_MODULES])
        executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_exit_with_parent)
    else:
        executor = ThreadPoolExecutor(workers, thread_name_prefix="prepare")
    try:
        yield WorkerPool(executor, workers, use_processes=use_processes)
    finally:
        executor.shutdown(cancel_futures=True)


def _call_with_pickled_state(pickled_state: bytes, function: Callable[[Any, Item], Result], item: Item) -> Result:
    return function(_unpickle_state(pickled_state), item)


@lru_cache(maxsize=1)
def _unpickle_state(pickled_state: bytes) -> Any:
    return pickle.loads(pickled_state)


def _exit_with_parent() -> None:
    """Exit when the parent process dies: a worker would otherwise wait for items forever."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, name="watch-parent", daemon=True).start()
