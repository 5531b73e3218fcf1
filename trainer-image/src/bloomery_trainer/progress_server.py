"""Progress over HTTP: ``/progress`` as JSON, ``/metrics`` for Prometheus, and ``/stop``."""

from __future__ import annotations

import hmac
import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from bloomery_model.threaded_server import ThreadedServer

CLIENT_SECONDS = 10
"""Time for a client to send its request, or to take the answer."""

BETTER_NAMES = {
    "bloomery_prepare_total": "bloomery_prepare_source_images",
    "bloomery_train_total_steps": "bloomery_train_steps",
}
"""Gauges whose first names read as those of counters: users may still use these, so both are served."""


class Progress:
    """The newest figures of the work under way; written by the work, read by the server's threads."""

    def __init__(self, **figures: Any) -> None:
        self._lock = threading.Lock()
        self._figures = figures

    def update(self, **figures: Any) -> None:
        """Replace the named figures."""
        with self._lock:
            self._figures.update(figures)

    def snapshot(self) -> dict[str, Any]:
        """Return a copy of all figures."""
        with self._lock:
            return dict(self._figures)


class ProgressServer:
    """Serves a Progress from a thread of its own, from ``start`` until ``stop``."""

    def __init__(
        self,
        progress: Progress,
        *,
        kind: str,
        port: int,
        stop: Callable[[], None] | None = None,
        token: str | None = None,
    ) -> None:
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(_Figures(progress, f"bloomery_{kind}"))
        self._server = _Server(port, _handler(progress, registry, _Stop(stop, token)))

    @property
    def port(self) -> int:
        """The port in use, also where 0 was asked for."""
        return self._server.port

    def start(self) -> None:
        """Start to answer requests."""
        threading.Thread(target=self._server.serve_forever, name="progress", daemon=True).start()

    def stop(self) -> None:
        """Close the port."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadedServer, HTTPServer):
    """The HTTP server."""


class _Stop:
    """The action of ``POST /stop``, for clients with the token."""

    def __init__(self, stop: Callable[[], None] | None, token: str | None) -> None:
        self._stop = stop
        self._token = token

    def status(self, authorization: str) -> int:
        """Stop the work if the token is right; return the HTTP status to answer."""
        if self._stop is None or not self._token:
            return 404
        if not hmac.compare_digest(authorization.encode(), f"Bearer {self._token}".encode()):
            return 401
        self._stop()
        return 202


class _Figures:
    """Every number of a Progress as a gauge: ``imagesPerSecond`` becomes ``bloomery_train_images_per_second``."""

    def __init__(self, progress: Progress, prefix: str) -> None:
        self._progress = progress
        self._prefix = prefix

    def collect(self) -> Iterator[GaugeMetricFamily]:
        for key, value in self._progress.snapshot().items():
            if isinstance(value, int | float):
                words = re.sub(r"(?=[A-Z])", "_", key).lower()
                name = f"{self._prefix}_{words}"
                for each in (name, BETTER_NAMES.get(name)):
                    if each is not None:
                        yield GaugeMetricFamily(each, f"{key} of the work under way", value=value)


def _handler(progress: Progress, registry: CollectorRegistry, stop: _Stop) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = CLIENT_SECONDS

        def do_GET(self) -> None:
            if self.path == "/progress":
                self._answer("application/json", json.dumps(progress.snapshot(), ensure_ascii=False).encode())
            elif self.path == "/metrics":
                self._answer(CONTENT_TYPE_LATEST, generate_latest(registry))
            else:
                self.send_error(404)

        def do_POST(self) -> None:
            if self.path != "/stop":
                self.send_error(404)
                return
            self.send_response(stop.status(self.headers.get("Authorization", "")))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Leave requests out of the log."""

        def _answer(self, content_type: str, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler
