"""Model folders behind an MLflow server: its address, its credentials and its certificate."""

from __future__ import annotations

import base64
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bloomery_serving.errors import ModelError
from bloomery_serving.sources import open_source
from bloomery_serving.transfer import Transfer
from testing.authorities import make_authority

pytestmark = pytest.mark.feature("O6")

Requests = list[tuple[str, str | None]]


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[tuple[str, Requests]]:
    """The address of a server behind a private CA, below a path; and the path and credentials of each request."""
    requests: Requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append((self.path, self.headers.get("Authorization")))
            self.send_response(200)
            self.send_header("Content-Length", "7")
            self.end_headers()
            self.wfile.write(b"content")

        def log_message(self, format: str, *args: object) -> None:
            """Suppress the log."""

    authority = make_authority().write(tmp_path / "tls")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.certificate, authority.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"https://localhost:{server.server_address[1]}/ml/flow", requests
    server.shutdown()
    server.server_close()


def read(uri: str, **variables: str) -> bytes | None:
    return open_source("mlflow-artifacts:/1/model", {"MLFLOW_TRACKING_URI": uri, **variables}).read("labels.txt")


def test_unknown_authority_is_named_with_the_value_of_the_chart(registry: tuple[str, Requests]) -> None:
    with pytest.raises(ModelError, match=r"trustedCAs\.configMap") as refused:
        read(registry[0])
    assert refused.value.reason == "StoreUnavailable"


def test_path_and_line_breaks_of_the_secret_are_understood(registry: tuple[str, Requests]) -> None:
    address, requests = registry
    secret = {"MLFLOW_TRACKING_USERNAME": "anna\n", "MLFLOW_TRACKING_PASSWORD": "secret\n"}
    assert read(f"{address}/\n", MLFLOW_TRACKING_INSECURE_TLS="true\n", **secret) == b"content"
    credentials = base64.b64encode(b"anna:secret").decode()
    path = "/ml/flow/api/2.0/mlflow-artifacts/artifacts/1/model/labels.txt"
    assert requests == [(path, f"Basic {credentials}")]


@pytest.fixture
def broken_server() -> Iterator[str]:
    """The address of a server that ends each connection in the middle of its answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b"content")

        def log_message(self, format: str, *args: object) -> None:
            """Suppress the log."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_answer_that_ends_too_early_is_no_file(broken_server: str, tmp_path: Path) -> None:
    source = open_source("mlflow-artifacts:/1/model", {"MLFLOW_TRACKING_URI": broken_server})
    with pytest.raises(ModelError, match="cannot be read from MLflow") as refused:
        source.read("labels.txt")
    assert refused.value.reason == "StoreUnavailable"
    with pytest.raises(ModelError, match="93 bytes before the end"):
        source.fetch("model.onnx", tmp_path / "model.onnx", Transfer())
    with pytest.raises(ModelError, match="cannot be read from MLflow"):
        source.sizes()
