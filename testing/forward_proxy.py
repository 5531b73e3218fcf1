"""Forward proxy, as companies have one before the internet; it also stands in for DNS: it knows where names lead."""

from __future__ import annotations

import http.client
import selectors
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_HOP_BY_HOP_HEADERS = {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "content-length", "date"}
Address = tuple[str, int]


@dataclass(frozen=True)
class ForwardProxy:
    """The proxy's URL, the host:port of each request or tunnel so far, and the headers of the requests."""

    url: str
    hosts: list[str]
    headers: list[Mapping[str, str]]

    def environment(self) -> dict[str, str]:
        """Return the variables by which programs find the proxy."""
        names = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
        return dict.fromkeys(names, self.url) | {"NO_PROXY": "", "no_proxy": ""}


@contextmanager
def run_forward_proxy(locate: Callable[[str], Address | None]) -> Iterator[ForwardProxy]:
    """Run the proxy until the block ends.

    Args:
        locate: returns the address behind a host name, or None: the proxy answers 502.
    """
    hosts: list[str] = []
    headers: list[Mapping[str, str]] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_class(locate, hosts, headers))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield ForwardProxy(f"http://127.0.0.1:{server.server_address[1]}", hosts, headers)
    finally:
        server.shutdown()
        server.server_close()


def _handler_class(
    locate: Callable[[str], Address | None], hosts: list[str], seen: list[Mapping[str, str]]
) -> type[BaseHTTPRequestHandler]:
    class ProxyHandler(BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            hosts.append(self.path)
            address = locate(self.path.rpartition(":")[0].strip("[]"))
            if address is None:
                self.send_error(502)
                return
            with socket.create_connection(address) as upstream:
                self.send_response(200)
                self.end_headers()
                _join(self.connection, upstream)
            self.close_connection = True

        def _forward(self) -> None:
            target = urlsplit(self.path)
            hosts.append(target.netloc)
            seen.append({name.lower(): value for name, value in self.headers.items()})
            address = locate(target.hostname or "")
            if address is None:
                self.send_error(502)
                return
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP_HEADERS}
            upstream = http.client.HTTPConnection(*address, timeout=60)
            path = target.path + (f"?{target.query}" if target.query else "")
            upstream.request(self.command, path or "/", body or None, headers | {"Content-Length": str(len(body))})
            answer = upstream.getresponse()
            self._reply(answer, answer.read())
            upstream.close()

        def _reply(self, answer: http.client.HTTPResponse, content: bytes) -> None:
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in _HOP_BY_HOP_HEADERS:
                    self.send_header(name, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else None
            self.send_header("Content-Length", length or str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _forward

        def log_message(self, format: str, *args: object) -> None:
            """Suppress the log."""

    return ProxyHandler


def _join(one: socket.socket, other: socket.socket) -> None:
    """Pass bytes both ways until one side closes."""
    with selectors.DefaultSelector() as selector:
        selector.register(one, selectors.EVENT_READ, other)
        selector.register(other, selectors.EVENT_READ, one)
        while True:
            for key, _ in selector.select():
                source, target = key.fileobj, key.data
                assert isinstance(source, socket.socket)
                try:
                    chunk = source.recv(65536)
                    if not chunk:
                        return
                    target.sendall(chunk)
                except OSError:
                    return
