"""The process: settings, clients, kopf and the controller, health and metrics, until SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from contextlib import AsyncExitStack

import aiohttp
import kopf
from aiohttp import web
from kubernetes.aio import client as kube
from kubernetes.aio import config as kube_config
from pydantic import ValidationError
from pythonjsonlogger.json import JsonFormatter

from bloomery_operator.cluster.client import ClusterError, KubernetesCluster
from bloomery_operator.cluster.kinds import HTTP_ROUTES, OWNERS, Kind
from bloomery_operator.cluster.projection import Projection
from bloomery_operator.controller import CHILDREN, Controller
from bloomery_operator.handlers import build_registry, build_settings
from bloomery_operator.progress import ProgressClient
from bloomery_operator.reconcile import Context
from bloomery_operator.registry import RegistryClient
from bloomery_operator.settings import Settings
from bloomery_operator.telemetry import Telemetry

logger = logging.getLogger(__name__)


def main() -> int:
    """Run the operator until it is told to stop; return the process' exit code."""
    try:
        settings = Settings()  # type: ignore[call-arg]  # the environment gives what is required
    except ValidationError as error:
        wrong = "; ".join(f"BLOOMERY_{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors())
        print(f"The operator's environment is not right: {wrong}", file=sys.stderr)
        return 2
    configure_logging(settings)
    try:
        asyncio.run(run(settings))
    except (ClusterError, kube_config.ConfigException, OSError) as error:
        logger.error("the operator can not start: %s", error)
        return 1
    return 0


def configure_logging(settings: Settings) -> None:
    """Send all logs to stderr, a JSON object or a sentence a line."""
    handler = logging.StreamHandler()
    fields = "%(asctime)s %(levelname)s %(name)s %(message)s"
    handler.setFormatter(JsonFormatter(fields) if settings.log_format == "json" else logging.Formatter(fields))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    logging.getLogger("kopf").setLevel(logging.WARNING)


async def run(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT, or until a part of the process ends by itself."""
    stop = asyncio.Event()
    _stop_on_signals(stop)
    async with AsyncExitStack() as stack:
        await _load_credentials()
        api = await stack.enter_async_context(kube.ApiClient())
        session = await stack.enter_async_context(aiohttp.ClientSession())
        telemetry = Telemetry()
        trainers = ProgressClient(session, every=settings.progress_seconds)
        context = Context(
            cluster=KubernetesCluster(api),
            projection=Projection(),
            settings=settings,
            read_progress=trainers.read,
            stop_trainer=trainers.stop,
            find_model=RegistryClient(session).find,
        )
        controller = Controller(context, telemetry, kinds=watched_kinds(settings))
        await serve_health(stack, settings, controller, telemetry)
        await _run_until(stop, controller, settings)


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
    ours = asyncio.all_tasks()
    tasks = await kopf.spawn_tasks(
        registry=build_registry(controller),
        settings=build_settings(controller),
        clusterwide=not settings.namespaces,
        namespaces=settings.namespaces,
        stop_flag=stop,
    )
    # kopf has claimed the signals, and would first wait 5 s for our workers, which never end by themselves.
    _stop_on_signals(stop)
    await kopf.run_tasks(tasks, ignored=ours)


async def _run_until(stop: asyncio.Event, controller: Controller, settings: Settings) -> None:
    tasks = [
        asyncio.create_task(stop.wait(), name="stop"),
        asyncio.create_task(controller.run(), name="controller"),
        asyncio.create_task(_watch(controller, settings, stop), name="kopf"),
    ]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    stop.set()
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    for task in done:
        # kopf, when it ends, cancels every task that began after it, ours too.
        if not task.cancelled():
            task.result()


async def serve_health(stack: AsyncExitStack, settings: Settings, controller: Controller, telemetry: Telemetry) -> None:
    """Serve ``/healthz`` and ``/metrics``, each on its port, until the stack is closed."""

    async def healthz(_: web.Request) -> web.Response:
        ailment = controller.ailment()
        return web.Response(status=503 if ailment else 200, text=ailment or "ok")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=telemetry.exposition(), headers={"Content-Type": "text/plain; version=0.0.4"})

    for port, path, handler in (
        (settings.health_port, "/healthz", healthz),
        (settings.metrics_port, "/metrics", metrics),
    ):
        app = web.Application()
        app.router.add_get(path, handler)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, None, port).start()
