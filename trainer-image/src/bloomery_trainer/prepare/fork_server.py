"""The server process that the workers of a large dataset are forked from.

A fork of the main process would lack the threads of the store's client. The server has none, and imports the workers'
modules once for all of them. It takes as long for that as the main process for its own, so it starts before them.
"""

from __future__ import annotations

from multiprocessing import forkserver

from bloomery_model.cgroup import cpu_count

_WORKER_MODULES = [
    "bloomery_trainer.prepare.worker_pool",
    "bloomery_trainer.prepare.inspect",
    "bloomery_trainer.prepare.pack",
]
"""Modules of the functions that workers call."""


def configure() -> None:
    """Name the modules that the server imports when it starts."""
    forkserver.set_forkserver_preload(_WORKER_MODULES)


def start_early() -> None:
    """Start the server, and do not wait for it; on a single processor it would only take the main process's time."""
    if cpu_count() > 1:
        configure()
        forkserver.ensure_running()
