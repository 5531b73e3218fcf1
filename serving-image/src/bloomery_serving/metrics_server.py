"""The HTTP server of the metrics' port, from threads of its own.

``prometheus_client`` has one, too. It answers no HEAD, listens on IPv4 only, and keeps a thread for every connection
for as long as that says nothing, and there is no key before it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from bloomery_model.threaded_server import ThreadedServer

SILENCE_SECONDS = 10

_Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


class _Handler(WSGIRequestHandler):
    timeout = SILENCE_SECONDS

    def log_message(self, format: str, *arguments: object) -> None:
        """Log no requests."""


class _Server(ThreadedServer, WSGIServer):
    def server_bind(self) -> None:
        super().server_bind()
        self.setup_environ()


def start_metrics_server(port: int, registry: CollectorRegistry) -> None:
    """Serve a registry until the process ends."""
    server = _Server(port, _Handler)
    server.set_app(_with_head(make_wsgi_app(registry)))
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()


def _with_head(app: _Application) -> _Application:
    """Let an application that knows GET answer HEAD."""

    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "HEAD":
            return app(environ, start_response)
        app(environ | {"REQUEST_METHOD": "GET"}, start_response)
        return []

    return answer
