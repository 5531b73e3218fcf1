"""HTTP of a server that has no model yet: alive while it makes progress, and not ready."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

from bloomery_model.threaded_server import ThreadedServer
from bloomery_serving.transfer import Transfer

logger = logging.getLogger(__name__)

MAX_SECONDS_WITHOUT_PROGRESS = 600
"""A fetch or a start of the model that does nothing for this long is restarted by the liveness probe."""
_LIVE_PATH = "/v2/health/live"
_CLIENT_SECONDS = 5
"""Time for a client to send its request: probes are sent at once."""


@contextmanager
def answering_probes(port: int, transfer: Transfer) -> Iterator[None]:
    """Answer requests on a port during the block; the port is free after it."""
    try:
        server = _Server(port, _handler_class(transfer))
    except OSError as error:
        # The server itself reports a port that is in use, once it has its model.
        logger.warning("probes are not answered while the model is fetched: %s", error)
        yield
        return
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadedServer, HTTPServer):
    max_connections = 256
    """A probe must find a place beside clients that are slow."""


def _handler_class(transfer: Transfer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _CLIENT_SECONDS

        def do_GET(self) -> None:
            """Answer probes, and refuse other requests."""
            if self.path == _LIVE_PATH:
                is_live = transfer.seconds_without_progress < MAX_SECONDS_WITHOUT_PROGRESS
                self._answer(200 if is_live else 503, {"live": is_live})
            else:
                self._answer(503, {"error": {"code": "Starting", "message": "The model is being fetched."}})

        do_HEAD = do_POST = do_GET

        def _answer(self, status: int, document: object) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "close")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
            self.close_connection = True

        def version_string(self) -> str:
            return "bloomery"

        def log_message(self, format: str, *args: object) -> None:
            """Write no log: probes come every second."""

    return Handler
