"""Watches of the API server through kopf, and all that kopf needs in this process. No other module imports kopf.

kopf only watches: every event is passed on, and kopf writes nothing, adds no finalizer and stores nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from functools import partial
from typing import Any, NoReturn, Protocol

import kopf

from bloomery_operator.api.base import Manifest
from bloomery_operator.cluster.kinds import ResourceKind

_PAGE_SIZE = 100
_SERVER_TIMEOUT_SECONDS = 300
_CLIENT_TIMEOUT_SECONDS = 301
_CONNECT_TIMEOUT_SECONDS = 60
_IDLE_TASK_SECONDS = 0.5
"""How long kopf keeps the task of an object, with the object's last event. At a start there is one for every object."""
_FIRST_BACKOFFS_SECONDS = (1.0, 2.0, 4.0, 8.0)
_MAX_BACKOFF_SECONDS = 10.0
_RETRY_MESSAGE = "failed; will retry"
"""Part of kopf's message about a request that it sends again."""


class WatchEnded(Exception):
    """A watch of kopf ended; only a restart of the process begins it again."""


class EventHandler(Protocol):
    """Receives each watch event."""

    def __call__(self, kind: ResourceKind, manifest: Manifest, *, deleted: bool) -> None:
        """Take in the object as it is now, or as it last was before its deletion."""


async def watch(
    kinds: Sequence[ResourceKind],
    on_event: EventHandler,
    *,
    namespaces: Collection[str],
    label_selector: Callable[[ResourceKind], str],
    set_signal_handlers: Callable[[], None],
) -> NoReturn:
    """Watch the kinds until cancelled; pass each event to ``on_event``.

    Args:
        kinds: what to watch.
        on_event: receives the events.
        namespaces: where to watch; empty for the whole cluster.
        label_selector: returns the selector of a kind's objects; empty for all objects.
        set_signal_handlers: called once kopf has replaced the signal handlers of the process, to set them again.

    Raises:
        WatchEnded: a watch failed.
    """
    tasks = await kopf.spawn_tasks(
        registry=_build_registry(kinds, on_event),
        settings=_build_settings(kinds, label_selector),
        clusterwide=not namespaces,
        namespaces=namespaces,
    )
    set_signal_handlers()
    # Not kopf.run_tasks: when stopped, or after a failure, it waits for tasks that do not end by themselves. These
    # tasks only read, so the process may end while they run.
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        # The handler holds the tasks until the process ends: asyncio logs an error for each task that is collected
        # earlier, and Python warns of coroutines that never ended.
        asyncio.get_running_loop().set_exception_handler(partial(_ignore_loop_error, tasks))
    raise WatchEnded(f"a watch failed: {next(iter(done)).exception()}")


def _ignore_loop_error(_tasks: Collection[object], _: asyncio.AbstractEventLoop, __: dict[str, Any]) -> None:
    return


def run_and_exit(main: Coroutine[Any, Any, int]) -> NoReturn:
    """Run a coroutine that watches, and end the process at once with the exit code that it returns."""
    # Not asyncio.run: at its end it closes kopf's generators in any order, and some of them print a traceback. The
    # variable keeps the loop, with all its tasks, until the process ends.
    loop = asyncio.new_event_loop()
    exit_process(loop.run_until_complete(main))


def exit_process(code: int) -> NoReturn:
    """End the process at once, whatever still runs in it."""
    logging.shutdown()
    os._exit(code)


def quiet_kopf(handler: logging.Handler) -> None:
    """Log only kopf's warnings and errors, without tracebacks, which show nothing but kopf's own code.

    A request that kopf sends again is a warning: its messages have the level ERROR for every answer of an API server
    that restarts, or that serves a kind in a moment.
    """
    logging.getLogger("kopf").setLevel(logging.WARNING)
    handler.addFilter(_quiet_record)


def _quiet_record(record: logging.LogRecord) -> bool:
    if record.name.startswith("kopf"):
        record.exc_info = None
        if _RETRY_MESSAGE in record.getMessage():
            record.levelno, record.levelname = logging.WARNING, logging.getLevelName(logging.WARNING)
    return True


class _EndlessBackoffs:
    """Seconds between kopf's retries of a request. kopf's own list ends, and the process with it, after a minute."""

    def __iter__(self) -> Iterator[float]:
        return itertools.chain(_FIRST_BACKOFFS_SECONDS, itertools.repeat(_MAX_BACKOFF_SECONDS))


class _NoDiffBase(kopf.DiffBaseStorage):
    """Stores nothing of an object: no handler needs its former state, and kopf would copy each object to compare."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None


def _build_settings(
    kinds: Sequence[ResourceKind], label_selector: Callable[[ResourceKind], str]
) -> kopf.OperatorSettings:
    """Return kopf's settings: bounded watches, server-side selectors, no peering, no Kubernetes Events."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.networking.error_backoffs = _EndlessBackoffs()
    settings.queueing.idle_timeout = _IDLE_TASK_SECONDS
    settings.persistence.diffbase_storage = _NoDiffBase()
    settings.watching.server_timeout = _SERVER_TIMEOUT_SECONDS
    settings.watching.client_timeout = _CLIENT_TIMEOUT_SECONDS
    settings.watching.connect_timeout = _CONNECT_TIMEOUT_SECONDS
    settings.watching.chunk_size = _PAGE_SIZE
    for kind in kinds:
        if selector := label_selector(kind):
            settings.watching.label_selectors[kind.group, kind.version, kind.plural] = selector
    return settings


def _build_registry(kinds: Sequence[ResourceKind], on_event: EventHandler) -> kopf.OperatorRegistry:
    """Return the handlers: the login, and ``on.event`` for each kind."""
    registry = kopf.OperatorRegistry()
    kopf.on.login(registry=registry)(_login)
    for kind in kinds:
        _register(registry, kind, on_event)
    return registry


def _login(**kwargs: Any) -> kopf.ConnectionInfo | None:
    """Return the credentials that the operator's own client uses: the pod's, or those of a kubeconfig."""
    return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)


def _register(registry: kopf.OperatorRegistry, kind: ResourceKind, on_event: EventHandler) -> None:
    @kopf.on.event(kind.group, kind.version, kind.plural, registry=registry, id=kind.plural)
    async def handle(event: kopf.RawEvent, **_: Any) -> None:
        on_event(kind, dict(event["object"]), deleted=event["type"] == "DELETED")
