"""Reverse proxy that requires credentials, as an ingress with basic authentication does."""

from __future__ import annotations

import base64
import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

USER, PASSWORD, TOKEN = "anna", "geheim 密码", "a-token"
BASIC = {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": PASSWORD}
BEARER = {"MLFLOW_TRACKING_TOKEN": TOKEN}
_HOP_BY_HOP_HEADERS = {"host", "connection", "transfer-encoding", "content-length", "date", "server"}


@contextmanager
def run_basic_auth_proxy(port: int) -> Iterator[str]:
    """Run a proxy in front of the server on a local port during the block; yield the URL of the proxy."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_class(port))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def _handler_class(port: int) -> type[BaseHTTPRequestHandler]:
    accepted = {f"Basic {base64.b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}", f"Bearer {TOKEN}"}

    class AuthHandler(BaseHTTPRequestHandler):
        def _pass(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Authorization") not in accepted:
                self._answer(401, [("Content-Type", "text/html")], b"<h1>401 Authorization Required</h1>")
                return
            upstream = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP_HEADERS}
            upstream.request(self.command, self.path, body or None, headers)
            answer = upstream.getresponse()
            self._answer(answer.status, answer.getheaders(), answer.read())
            upstream.close()

        def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
            self.send_response(status)
            for name, value in headers:
                if name.lower() not in _HOP_BY_HOP_HEADERS:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass

        def log_message(self, format: str, *args: object) -> None:
            """Suppress the log."""

    return AuthHandler
