"""The life of a server: fetch the model, load it, serve it, drain."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

import uvicorn

from bloomery_model import termination
from bloomery_model.listening import listen_anywhere
from bloomery_model.signals import on_sigterm
from bloomery_serving.app import create_app
from bloomery_serving.capacity import Capacity
from bloomery_serving.engine_choice.comparison import Served
from bloomery_serving.engine_choice.selection import EngineSelection
from bloomery_serving.errors import ModelError
from bloomery_serving.http_protocol import ConnectionLimits, bounded_protocol, close_overdue
from bloomery_serving.identity import ModelIdentity
from bloomery_serving.loading import load
from bloomery_serving.metrics import Metrics
from bloomery_serving.model import Model
from bloomery_serving.settings import Settings, read_settings
from bloomery_serving.startup import answering_probes
from bloomery_serving.transfer import Transfer

logger = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 3660
"""Longer than a gateway keeps an idle connection (Envoy: an hour), so that the server never closes one in use."""


def run() -> int:
    """Serve until SIGTERM, which raises SystemExit; return the exit code: 1 if the model cannot be served."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        settings = read_settings()
        transfer = Transfer(max_bytes=settings.model_max_bytes)
        # uvicorn drains on SIGTERM, then raises it once more for the handler before its own: a drained server ended
        # well, as does one that gets the signal before uvicorn has its handler.
        signal.signal(signal.SIGTERM, _exit_well)
        with answering_probes(settings.port, transfer), on_sigterm(_stop_at_once):
            model, identity = load(settings, transfer)
        with suppress(KeyboardInterrupt):
            serve(settings, model, identity)
    except ModelError as error:
        return _give_up(error.reason, str(error))
    return 0


def _stop_at_once() -> None:
    logger.info("the server is stopped before its model is loaded")
    os._exit(0)  # the main thread, which loads, cannot be interrupted


def _exit_well(*_: object) -> None:
    raise SystemExit(0)


def serve(
    settings: Settings, model: Model, identity: ModelIdentity, *, sockets: list[socket.socket] | None = None
) -> None:
    """Answer requests until SIGTERM or Ctrl+C, then finish those that are under way.

    Args:
        settings: of the server.
        model: loaded.
        identity: of the model.
        sockets: listen on these instead of the port of the settings.

    Raises:
        KeyboardInterrupt: Ctrl+C, after the server has drained.
        ModelError: a port is in use.
    """
    metrics = Metrics(identity, service=settings.service_name)
    try:
        metrics.serve(settings.metrics_port)
        sockets = sockets or [listen_anywhere(port) for port in _ports(settings)]
    except OSError as error:
        ports = f"PORT ({settings.port}), METRICS_PORT ({settings.metrics_port})"
        ports += f" or COMPARE_PORT ({settings.compare_port})" if settings.compares else ""
        raise ModelError("BadSettings", f"{ports} cannot be used: {error.strerror}.") from error
    limits = ConnectionLimits(
        connections=settings.max_connections,
        head_seconds=settings.head_seconds,
        request_seconds=settings.body_seconds,
    )
    capacity = Capacity.of_container(settings)
    config = uvicorn.Config(
        create_app(settings, model, identity, metrics, capacity=capacity),
        http=bounded_protocol(limits),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=settings.drain_seconds,
        timeout_notify=1,
        callback_notify=lambda: _close_overdue(server),
    )
    server = _Server(config, on_start=lambda: _choose_engine(settings, model, metrics, capacity))
    server.run(sockets=sockets)


def _ports(settings: Settings) -> list[int]:
    return [settings.port, *([settings.compare_port] if settings.compares else [])]


class _Server(uvicorn.Server):
    """A server that does something more once it listens."""

    def __init__(self, config: uvicorn.Config, *, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then do it."""
        await super().startup(sockets)
        self._on_start()


def _choose_engine(settings: Settings, model: Model, metrics: Metrics, capacity: Capacity) -> None:
    """Choose the engine of a server that is ready, in a thread of its own."""
    metrics.describe_engine(model.engine)
    selection = EngineSelection(Served.of(settings, model, capacity), on_choice=metrics.describe_engine)
    threading.Thread(target=selection.run, name="choose-engine", daemon=True).start()


async def _close_overdue(server: uvicorn.Server) -> None:
    close_overdue(server.server_state)


def _give_up(reason: str, message: str) -> int:
    """Report why the server cannot start: in the log, and as the container's termination message."""
    logger.error("%s: %s", reason, message)
    path = termination.path_from(os.environ)
    termination.write(path, termination.failure(reason, message))
    return 1
