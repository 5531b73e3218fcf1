"""HTTP endpoints of the process: ``/healthz`` for the liveness probe, ``/metrics`` for Prometheus."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from aiohttp import web

_Handler = Callable[[web.Request], Awaitable[web.Response]]


@asynccontextmanager
async def serve_health(
    *, health_port: int, metrics_port: int, liveness_error: Callable[[], str | None], exposition: Callable[[], bytes]
) -> AsyncIterator[None]:
    """Serve ``/healthz`` and ``/metrics``, each on its own port, within the block.

    Args:
        health_port: port of ``/healthz``.
        metrics_port: port of ``/metrics``.
        liveness_error: returns why the process must be restarted, or None.
        exposition: returns the metrics in Prometheus' text format.
    """

    async def healthz(_: web.Request) -> web.Response:
        error = liveness_error()
        return web.Response(status=503 if error else 200, text=error or "ok")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=exposition(), headers={"Content-Type": "text/plain; version=0.0.4"})

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(_serve(health_port, "/healthz", healthz))
        await stack.enter_async_context(_serve(metrics_port, "/metrics", metrics))
        yield


@asynccontextmanager
async def _serve(port: int, path: str, handler: _Handler) -> AsyncIterator[None]:
    app = web.Application()
    app.router.add_get(path, handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, None, port).start()
        yield
    finally:
        await runner.cleanup()
