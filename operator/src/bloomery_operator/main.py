"""The process: connects settings, clients, controller, watches and health endpoints, and runs until SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import uuid
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any, NoReturn

import aiohttp
from kubernetes.aio import client as kube
from pydantic import ValidationError

from bloomery_operator.clients.http import Proxies, ReleasedSlot, no_slot, trusting_context
from bloomery_operator.clients.mlflow import MlflowClient
from bloomery_operator.clients.model_server import ModelServerMetrics
from bloomery_operator.clients.trainer import TrainerClient
from bloomery_operator.cluster.client import ClusterError, KubernetesCluster
from bloomery_operator.cluster.connection import ConfigurationError, connect
from bloomery_operator.cluster.kinds import ObjectKey
from bloomery_operator.cluster.leader_election import LeaderElector, LeaseLost
from bloomery_operator.cluster.object_cache import ObjectCache
from bloomery_operator.controller.controller import Controller, watched_kinds
from bloomery_operator.controller.kopf_watch import WatchEnded, exit_process, quiet_kopf, run_and_exit, watch
from bloomery_operator.controller.resync import label_selector
from bloomery_operator.controller.workqueue import WorkerSlots
from bloomery_operator.domain.gateway_paths import conflicting_grants
from bloomery_operator.health import serve_health
from bloomery_operator.logging import configure_logging
from bloomery_operator.metrics import OperatorMetrics
from bloomery_operator.reconcile import Context
from bloomery_operator.reconcile.served_tags import ServedTags
from bloomery_operator.settings import Settings, describe_settings_error

logger = logging.getLogger(__name__)


def main() -> NoReturn:
    """Run the operator until SIGTERM or SIGINT, and end the process."""
    try:
        settings = Settings()  # type: ignore[call-arg]  # the environment sets the required fields
    except ValidationError as error:
        print(f"Wrong environment variables: {describe_settings_error(error)}", file=sys.stderr)
        exit_process(2)
    if (prefixes := conflicting_grants(settings.path_prefixes)) is not None:
        first, second = prefixes
        message = f"{first!r} and {second!r} overlap, and a prefix belongs to one namespace"
        print(f"Wrong environment variables: BLOOMERY_PATH_PREFIXES: {message}", file=sys.stderr)
        exit_process(2)
    quiet_kopf(configure_logging(settings.log_format))
    run_and_exit(_run_to_exit_code(settings))


async def _run_to_exit_code(settings: Settings) -> int:
    try:
        await run(settings)
    except WatchEnded as error:
        logger.error("the operator ends, to be started again: %s", error)
        return 1
    except (ClusterError, ConfigurationError, OSError, aiohttp.ClientError) as error:
        logger.error("the operator cannot start: %s", str(error) or type(error).__name__)
        return 1
    return 0


async def run(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT, or until a part of the process ends by itself."""
    stop = asyncio.Event()
    _stop_on_signals(stop)
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(connect())
        # Connections are not limited: those to servers that do not answer must not delay all others.
        connector = aiohttp.TCPConnector(limit=0, ssl=trusting_context(settings.ca_folder))
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        metrics = OperatorMetrics()
        elector = _build_elector(api, settings)
        slots = WorkerSlots(settings.workers)
        context = _build_context(api, session, settings, elector, slots)
        # A client of its own: what it waits for occupies no slot that it could release.
        tags = ServedTags(context, _build_mlflow_client(session, settings))
        controller = Controller(context, metrics, kinds=watched_kinds(settings), slots=slots, served_tags=tags)
        health = serve_health(
            health_port=settings.health_port,
            metrics_port=settings.metrics_port,
            liveness_error=controller.liveness_error,
            exposition=metrics.exposition,
        )
        await stack.enter_async_context(health)
        if elector is not None:
            await _run_until(stop, elector.acquire())
        if not stop.is_set():
            metrics.is_leader.set(1)
            await _lead(stop, controller, settings, elector)


def _build_elector(api: kube.ApiClient, settings: Settings) -> LeaderElector | None:
    """Return this process as a candidate for the leader; None if it is the only operator."""
    if not settings.lease_namespace:
        return None
    identity = f"{settings.pod_name}_{uuid.uuid4()}"
    key = ObjectKey(settings.lease_namespace, settings.lease_name)
    return LeaderElector(KubernetesCluster(api), key, identity=identity)


def _build_context(
    api: kube.ApiClient,
    session: aiohttp.ClientSession,
    settings: Settings,
    elector: LeaderElector | None,
    slots: WorkerSlots,
) -> Context:
    fence = {} if elector is None else {"lease_remaining_seconds": elector.remaining_seconds}
    trainers = TrainerClient(session, poll_seconds=settings.progress_poll_seconds, released_slot=slots.released)
    return Context(
        cluster=KubernetesCluster(api, timeout=settings.request_seconds, **fence),
        object_cache=ObjectCache(),
        settings=settings,
        read_progress=trainers.read_progress,
        stop_trainer=trainers.stop,
        registry=_build_mlflow_client(session, settings, released_slot=slots.released),
        servers=ModelServerMetrics(session, released_slot=slots.released),
    )


def _build_mlflow_client(
    session: aiohttp.ClientSession, settings: Settings, *, released_slot: ReleasedSlot = no_slot
) -> MlflowClient:
    return MlflowClient(
        session,
        allowed=(settings.own_mlflow_address, *settings.mlflow_addresses),
        poll_seconds=settings.mlflow_poll_seconds,
        proxies=Proxies(settings.http_proxy, settings.https_proxy, settings.no_proxy),
        released_slot=released_slot,
    )


async def _lead(stop: asyncio.Event, controller: Controller, settings: Settings, elector: LeaderElector | None) -> None:
    """Do the operator's work, as its only process."""
    watching = watch(
        watched_kinds(settings),
        controller.observe,
        namespaces=settings.namespaces,
        label_selector=label_selector,
        set_signal_handlers=lambda: _stop_on_signals(stop),
    )
    try:
        await _run_until(stop, controller.run(), watching, *([] if elector is None else [_hold(elector)]))
    finally:
        if elector is not None:
            await elector.release()


async def _hold(elector: LeaderElector) -> None:
    """Renew the lease; end the process at once when it is lost, so that no request in flight goes on."""
    try:
        await elector.hold()
    except LeaseLost as error:
        # A warning only: another process has the lease and works, and this one starts again as a standby.
        logger.warning("the operator ends: %s", error)
        exit_process(1)


async def _run_until(stop: asyncio.Event, *parts: Coroutine[Any, Any, object]) -> None:
    """Run the parts until one of them ends or ``stop`` is set; raise the exception of that part."""
    tasks = [asyncio.create_task(part) for part in (stop.wait(), *parts)]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    for task in done:
        task.result()


def _stop_on_signals(stop: asyncio.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
