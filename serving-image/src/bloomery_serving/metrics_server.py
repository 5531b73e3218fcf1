"""The HTTP server of the metrics' port, from threads of its own.

``prometheus_client`` has one, too. It answers no HEAD, listens on IPv4 only, and keeps a thread for every connection
for as long as that says nothing, and there is no key before it.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from bloomery_model.listening import listen_anywhere

MAX_CONNECTIONS = 16
SILENCE_SECONDS = 10

_Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


class _Handler(WSGIRequestHandler):
    timeout = SILENCE_SECONDS

    def log_message(self, format: str, *arguments: object) -> None:
        """Log no requests."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, listener: socket.socket) -> None:
        super().__init__(listener.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.server_name, self.server_port = "metrics", listener.getsockname()[1]
        self.setup_environ()
        self._free = threading.Semaphore(MAX_CONNECTIONS)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, unless there are too many already."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, in the thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log nothing about clients that leave or say nothing."""


def start_metrics_server(port: int, registry: CollectorRegistry) -> None:
    """Serve a registry until the process ends."""
    server = _Server(listen_anywhere(port))
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
