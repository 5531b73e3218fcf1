"""The process: settings, clients, kopf and the controller, health and metrics, until SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import uuid
from collections.abc import Collection, Coroutine
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, NoReturn

import aiohttp
import kopf
from kubernetes.aio import client as kube
from kubernetes.aio import config as kube_config
from pydantic import ValidationError

from bloomery_operator.clients.mlflow import MlflowClient
from bloomery_operator.clients.model_server import ModelServerMetrics
from bloomery_operator.clients.trainer import TrainerClient
from bloomery_operator.cluster.client import ClusterError, KubernetesCluster
from bloomery_operator.cluster.kinds import HTTP_ROUTES, OWNERS, Key, Kind
from bloomery_operator.cluster.lease import Lease, LeaseLost, LeaseStore
from bloomery_operator.cluster.projection import Projection
from bloomery_operator.controller import CHILDREN, Controller
from bloomery_operator.handlers import build_registry, build_settings
from bloomery_operator.health import serve_health
from bloomery_operator.logging import configure_logging
from bloomery_operator.metrics import OperatorMetrics
from bloomery_operator.reconcile import Context
from bloomery_operator.settings import Settings

logger = logging.getLogger(__name__)


class WatchesEnded(Exception):
    """kopf gave up its watches; only a new start begins them again."""


def main() -> NoReturn:
    """Run the operator until it is told to stop, and end the process."""
    try:
        settings = Settings()  # type: ignore[call-arg]  # the environment gives what is required
    except ValidationError as error:
        wrong = "; ".join(f"BLOOMERY_{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors())
        print(f"The operator's environment is not right: {wrong}", file=sys.stderr)
        leave(2)
    configure_logging(settings.log_format).addFilter(_without_traces_of_kopf)
    logging.getLogger("kopf").setLevel(logging.WARNING)
    # Not asyncio.run, which at the end closes kopf's generators in any order: some answer with a traceback. The loop
    # has a name so that it outlives the run, with all that it holds.
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(run(settings))
    except WatchesEnded as error:
        logger.error("the operator ends, to be started again: %s", error)
        leave(1)
    except (ClusterError, kube_config.ConfigException, OSError, aiohttp.ClientError) as error:
        logger.error("the operator can not start: %s", str(error) or type(error).__name__)
        leave(1)
    leave(0)


def leave(code: int) -> NoReturn:
    """End the process on the spot, with whatever is still under way in it."""
    logging.shutdown()
    os._exit(code)


def _without_traces_of_kopf(record: logging.LogRecord) -> bool:
    """Leave kopf its sentences: the trace of a watch that failed leads through kopf alone."""
    if record.name.startswith("kopf"):
        record.exc_info = None
    return True


async def run(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT, or until a part of the process ends by itself."""
    stop = asyncio.Event()
    _stop_on_signals(stop)
    async with AsyncExitStack() as stack:
        await _load_credentials()
        api = await stack.enter_async_context(build_api())
        session = await stack.enter_async_context(aiohttp.ClientSession())
        metrics = OperatorMetrics()
        lease = build_lease(KubernetesCluster(api), settings)
        trainers = TrainerClient(session, poll_seconds=settings.progress_seconds)
        context = Context(
            cluster=build_cluster(api, settings, lease),
            projection=Projection(),
            settings=settings,
            read_progress=trainers.read_progress,
            stop_trainer=trainers.stop,
            registry=MlflowClient(session, poll_seconds=settings.registry_seconds),
            servers=ModelServerMetrics(session),
        )
        controller = Controller(context, metrics, kinds=watched_kinds(settings))
        await stack.enter_async_context(
            serve_health(
                health_port=settings.health_port,
                metrics_port=settings.metrics_port,
                liveness_error=controller.liveness_error,
                exposition=metrics.exposition,
            )
        )
        if lease is not None:
            await _run_until(stop, lease.acquire())
        if not stop.is_set():
            metrics.is_leader.set(1)
            await _work(stop, controller, settings, lease)


async def _work(stop: asyncio.Event, controller: Controller, settings: Settings, lease: Lease | None) -> None:
    holding = () if lease is None else (_hold(lease),)
    try:
        await _run_until(stop, controller.run(), _watch(controller, settings, stop), *holding)
    finally:
        if lease is not None:
            await lease.release()


async def _hold(lease: Lease) -> None:
    """Hold the lease; without it the process ends on the spot, as nothing that is under way may go on."""
    try:
        await lease.hold()
    except LeaseLost as error:
        # Not an error: whoever holds the lease works, and this one starts again to stand by.
        logger.warning("the operator ends: %s", error)
        leave(1)


def build_lease(store: LeaseStore, settings: Settings) -> Lease | None:
    """Return what lets one of several operators work; None where there is only one."""
    if not settings.lease_namespace:
        return None
    identity = f"{settings.pod_name}_{uuid.uuid4()}"
    return Lease(store, Key(settings.lease_namespace, settings.lease_name), identity=identity)


def build_cluster(api: kube.ApiClient, settings: Settings, lease: Lease | None) -> KubernetesCluster:
    """Return the way to the API server, where what is written depends on the lease."""
    if lease is None:
        return KubernetesCluster(api, timeout=settings.request_seconds)
    return KubernetesCluster(api, timeout=settings.request_seconds, may_write=lease.remaining)


def build_api() -> kube.ApiClient:
    """Return the client of the API server; a proxy is asked for by no watch of kopf's, and so by none of ours."""
    configuration = kube.Configuration.get_default_copy()
    # Else each request would have two threads look through the environment, and for a ~/.netrc.
    configuration.client_session_kwargs = {"trust_env": False}
    return kube.ApiClient(configuration)


async def _load_credentials() -> None:
    """Take the pod's own credentials, or outside a pod those of the kubeconfig."""
    try:
        kube_config.load_incluster_config()  # type: ignore[no-untyped-call]
    except kube_config.ConfigException:
        await kube_config.load_kube_config()  # type: ignore[no-untyped-call]


def watched_kinds(settings: Settings) -> tuple[Kind, ...]:
    """Return the kinds to watch; routes only where a gateway is set up."""
    kinds = (*OWNERS, *CHILDREN)
    if not settings.has_gateway:
        return tuple(kind for kind in kinds if kind is not HTTP_ROUTES)
    return kinds


def _stop_on_signals(stop: asyncio.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)


async def _watch(controller: Controller, settings: Settings, stop: asyncio.Event) -> None:
    tasks = await kopf.spawn_tasks(
        registry=build_registry(controller),
        settings=build_settings(controller),
        clusterwide=not settings.namespaces,
        namespaces=settings.namespaces,
    )
    # kopf has claimed the signals.
    _stop_on_signals(stop)
    # Not kopf.run_tasks: told to stop, or after a failure, it waits for what does not end by itself. These tasks only
    # read, so that the process may leave them where they are.
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        # Kept to the end of the process: asyncio calls each task that is forgotten an error, and Python complains of
        # coroutines that go before they ended.
        asyncio.get_running_loop().set_exception_handler(partial(_say_nothing, tasks))
    raise WatchesEnded(f"a watch failed: {next(iter(done)).exception()}")


def _say_nothing(_kept: Collection[object], _: asyncio.AbstractEventLoop, __: dict[str, Any]) -> None:
    return


async def _run_until(stop: asyncio.Event, *parts: Coroutine[Any, Any, None]) -> None:
    """Run the parts until one of them ends, or until told to stop; raises what that one raised."""
    tasks = [asyncio.create_task(part) for part in (_wait(stop), *parts)]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    for task in done:
        task.result()


async def _wait(stop: asyncio.Event) -> None:
    await stop.wait()
