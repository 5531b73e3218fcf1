"""The base of small HTTP servers: both families, and bounds on clients."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from bloomery_model.threaded_server import ThreadedServer
from testing.waiting import eventually

pytestmark = pytest.mark.feature("O6", "O7")


class Handler(BaseHTTPRequestHandler):
    timeout = 5

    def do_GET(self) -> None:
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadedServer, HTTPServer):
    max_connections = 2


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(0, Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def status_at(address: str, port: int) -> int:
    connection = HTTPConnection(address, port, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status
    finally:
        connection.close()


def is_answered(server: Server) -> bool:
    try:
        return status_at("127.0.0.1", server.port) == 204
    except OSError:
        return False


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_server_answers_by_both_families(address: str, server: Server) -> None:
    if address == "::1" and not socket.has_dualstack_ipv6():
        pytest.skip("this kernel has no IPv6")
    assert status_at(address, server.port) == 204


def test_connection_beyond_the_bound_is_closed_until_another_ends(server: Server) -> None:
    silent = [socket.create_connection(("127.0.0.1", server.port), timeout=5) for _ in range(Server.max_connections)]
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as refused:
        assert refused.recv(1) == b""
    for connection in silent:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert connection.makefile("rb").read().startswith(b"HTTP/1.0 204")
        connection.close()
    eventually(lambda: is_answered(server), "another client is answered")


def test_client_that_resets_its_connection_leaves_no_traceback(
    server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    client = socket.create_connection(("127.0.0.1", server.port), timeout=5)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    client.sendall(b"GET")
    client.close()
    assert status_at("127.0.0.1", server.port) == 204
    assert capfd.readouterr().err == ""


def test_port_in_use_is_refused(server: Server) -> None:
    with pytest.raises(OSError, match="in use"):
        Server(server.port, Handler)


def test_port_is_free_again_after_the_server(server: Server) -> None:
    other = Server(0, Handler)
    other.server_close()
    Server(other.port, Handler).server_close()
