"""Requests and connections that are made to fill the memory, or to keep the server from others."""

from __future__ import annotations

import gzip
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.component.serving.conftest import GREEN, SIDE, Server, StartServer, encoded, picture

pytestmark = pytest.mark.feature("O7")

INFER = "/v2/models/colours/infer"
REFUSED_SECONDS = 20.0
MIB = 1024 * 1024


def peak_bytes(server: Server) -> int:
    """The most memory that the server has had."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def infer_body(data: str, count: int = 10) -> str:
    entry = f'"name":"images","shape":[{count},3,{SIDE},{SIDE}],"datatype":"FP32","data":{data}'
    return f'{{"inputs":[{{{entry}}}]}}'


def read_all(connection: socket.socket) -> bytes:
    return connection.makefile("rb").read()


@pytest.mark.parametrize(
    ("element", "words"),
    [("[[[[[[[[[[]]]]]]]]]]", "more than the"), ('{"":0}', "more than the"), ("[]", "more than the")],
    ids=["lists", "objects", "empty lists"],
)
def test_elements_that_are_no_numbers_take_no_memory(server: Server, element: str, words: str) -> None:
    server.client.post(INFER, content="{}")
    before = peak_bytes(server)
    body = infer_body(f"[{','.join([element] * 1_500_000)}]")
    answer = server.client.post(INFER, content=body)
    assert answer.status_code == 413
    assert words in answer.json()["error"]
    assert peak_bytes(server) - before < 4 * len(body) + 50 * MIB


def test_numbers_that_are_nested_too_deeply_are_refused_in_words(server: Server) -> None:
    answer = server.client.post(INFER, content=infer_body("[" * 190 + "0" + "]" * 190))
    assert answer.status_code == 400
    assert "in more than 5 lists" in answer.json()["error"]


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (gzip.compress(bytes(300 * MIB), 1), 413, "at most, unpacked"),
        (gzip.compress(b"[" * MIB)[:-4] + (100).to_bytes(4, "little"), 400, "not one whole gzip file"),
        (gzip.compress(b"{}") * 2, 400, "not one whole gzip file"),
        (gzip.compress(b"{}")[:-9], 400, "not one whole gzip file"),
        (b"no gzip at all, but long enough", 400, "not one whole gzip file"),
    ],
    ids=["bomb", "bomb that announces little", "two files", "cut off", "no gzip"],
)
def test_gzip_that_is_too_large_or_damaged_is_refused(server: Server, content: bytes, status: int, words: str) -> None:
    answer = server.client.post(INFER, content=content, headers={"content-encoding": "gzip"})
    assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text


def test_images_of_25_megapixels_are_decoded_as_far_as_memory_allows(start_server: StartServer) -> None:
    server = start_server()
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = Image.new("RGBA", (5000, 5000), GREEN)
    bodies = [
        encoded(Image.fromarray(np.full((5000, 5000), 20_000, np.uint16)), "PNG"),
        encoded(wide, "PNG", exif=exif),
    ]
    assert server.client.post("/predict", content=picture(GREEN)).status_code == 200
    before = peak_bytes(server)
    with ExitStack() as stack:
        connections = [stack.enter_context(server.connect()) for _ in range(8)]
        for number, connection in enumerate(connections):
            body = bodies[number % 2]
            head = f"POST /predict HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
            connection.settimeout(120)
            connection.sendall(head.encode() + body)
        answers = [read_all(connection).split()[1] for connection in connections]
    assert answers == [b"200"] * 8
    # A worker decodes one at a time: twice 4 bytes a pixel, and never all eight together.
    assert peak_bytes(server) - before < (1 + (os.cpu_count() or 1)) * 220 * MIB


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nx: " + b"a" * (80 * 1024),
        b"GET /" + b"a" * (80 * 1024),
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200,
        b"POST /v2/models/colours/infer HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n"
        + b"a: b\r\n" * 200,
    ],
    ids=["a long header", "a long address", "many headers", "many trailers"],
)
def test_head_without_end_is_refused_before_any_key_is_read(server: Server, head: bytes) -> None:
    with server.connect() as connection:
        connection.sendall(head)
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 431") or (b"trailers" not in head and answer == b"")
    assert server.client.get("/v2/health/ready").status_code == 200


def test_header_of_megabytes_takes_neither_memory_nor_time(server: Server) -> None:
    before, began = peak_bytes(server), time.monotonic()
    with server.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nx: ")
        try:
            for _ in range(100):
                connection.sendall(b"a" * MIB)
            answer = read_all(connection)
        except OSError:  # it was closed while we sent
            answer = b""
    assert answer.startswith(b"HTTP/1.1 431") or not answer
    assert time.monotonic() - began < REFUSED_SECONDS
    assert peak_bytes(server) - before < 20 * MIB


def test_connections_that_say_nothing_or_half_a_head_are_closed(start_server: StartServer) -> None:
    server = start_server(head_seconds="1", body_seconds="2")
    with server.connect() as silent, server.connect() as half, server.connect() as answered:
        half.sendall(b"GET / HTTP/1.1\r\nhost:")
        answered.sendall(b"GET /v2 HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n1234")
        assert read_all(half) == b""
        assert read_all(silent) == b""
        assert read_all(answered).startswith(b"HTTP/1.1 200")


def test_more_connections_than_allowed_end_the_oldest_idle_one(start_server: StartServer) -> None:
    server = start_server(max_connections="8")
    with ExitStack() as stack:
        silent = [stack.enter_context(server.connect()) for _ in range(20)]
        for _ in range(5):
            assert httpx.post(f"{server.url}/predict", content=picture(GREEN)).json()["label"] == "green"
        assert read_all(silent[0]) == b""


def test_many_requests_at_once_on_one_connection_are_cut_off(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(b"GET /v2 HTTP/1.1\r\nhost: x\r\n\r\n" * 5_000)
        try:
            answers = read_all(connection)
        except OSError:
            answers = b""
    assert answers.count(b"HTTP/1.1 200") <= 20
    assert server.client.get("/v2").status_code == 200


def test_a_body_that_trickles_is_cut_off_after_its_time(start_server: StartServer) -> None:
    server = start_server(body_seconds="1")
    with server.connect() as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n")
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"connection: close" in answer


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_values_of_a_request_are_shortened_in_messages(server: Server, size: int) -> None:
    entry = {"name": "x" * size, "datatype": "FP32", "shape": [1], "data": [1]}
    answer = server.client.post(INFER, json={"inputs": [entry]})
    assert answer.status_code == 400
    assert len(answer.text) < 500


@pytest.mark.feature("S2")
def test_sigterm_ends_a_server_that_waits_for_its_model(start_server: StartServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as store:  # it takes connections, and never answers
        endpoint = f"http://127.0.0.1:{store.getsockname()[1]}"
        keys = {"aws_access_key_id": "k", "aws_secret_access_key": "s", "aws_endpoint_url": endpoint}
        server = start_server(ready=False, model_uri="s3://bucket/model", **keys)
        store.settimeout(60)
        with store.accept()[0]:
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(30) == 0
    assert "stopped before its model is loaded" in server.log.read_text()


@pytest.mark.feature("S2")
def test_request_that_outlasts_the_drain_is_answered_503(start_server: StartServer) -> None:
    server = start_server(drain_seconds="1")
    with server.connect() as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nx")
        server.wait_for(1, "bloomery_requests_in_flight")
        server.process.send_signal(signal.SIGTERM)
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"ServerStopping" in answer
    assert server.process.wait(20) == 0


HEAD_PATHS = ("/v2/health/live", "/v2/health/ready", "/upload", "/docs", "/upload/upload.js", "/openapi.json", "/v2")


@pytest.mark.feature("S3")
@pytest.mark.parametrize("path", [*HEAD_PATHS, "/docs/swagger-ui.css"])
def test_head_is_answered_as_get_without_a_body(server: Server, path: str) -> None:
    get, head = server.client.get(path), server.client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == get.headers["content-length"]


@pytest.mark.feature("S15")
def test_head_is_answered_at_the_metrics_too(server: Server) -> None:
    answer = httpx.head(server.metrics_url)
    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.feature("S15")
def test_metrics_are_served_beside_connections_that_say_nothing(server: Server) -> None:
    host, port = server.metrics_url.split("/")[2].split(":")
    with ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(socket.create_connection((host, int(port)), timeout=20))
    assert "bloomery_model_info" in httpx.get(server.metrics_url).text


@pytest.mark.feature("S3")
@pytest.mark.parametrize("path", ["//predict", "///", "//v2//models/colours/infer"])
def test_several_slashes_count_as_one(server: Server, path: str) -> None:
    headers = {"inference-header-content-length": "0"}
    answer = httpx.post(f"{server.url}{path}", content=picture(GREEN), headers=headers)
    assert answer.status_code == 200, answer.text


@pytest.mark.feature("S3")
@pytest.mark.parametrize("field", ["image", "file"])
def test_form_field_may_be_named_image_or_file(server: Server, field: str) -> None:
    answer = server.client.post("/predict", files=[(field, ("a.png", picture(GREEN)))])
    assert answer.json()["label"] == "green"


def test_texts_of_a_form_are_not_decoded_by_the_clients_codec(server: Server) -> None:
    """The decoder of punycode takes minutes for a megabyte, on the event loop."""
    field = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n2n7c' + b"a" * 500_000 + b"\r\n"
    image = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n' + picture(GREEN)
    headers = {"content-type": 'multipart/form-data; charset=punycode; boundary="x"'}
    began = time.monotonic()
    answer = httpx.post(f"{server.url}/predict", content=field + image + b"\r\n--x--\r\n", headers=headers, timeout=120)
    assert (answer.status_code, answer.json().get("label")) == (200, "green")
    assert time.monotonic() - began < REFUSED_SECONDS


def test_empty_elements_beyond_the_limit_are_not_even_listed(server: Server) -> None:
    """Of four bytes each, millions of them fit into a small body that is packed."""
    size = 40 * MIB
    entry = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": size}}
    start = json.dumps({"inputs": [entry]}).encode()
    headers = {"content-encoding": "gzip", "inference-header-content-length": str(len(start))}
    before = peak_bytes(server)
    answer = httpx.post(f"{server.url}{INFER}", content=gzip.compress(start + bytes(size)), headers=headers, timeout=60)
    assert answer.status_code == 400 and "images at most" in answer.text
    # The body itself, and a copy of it.
    assert peak_bytes(server) - before < 3 * size


@pytest.mark.feature("S3")
def test_packed_image_is_refused_in_words(server: Server) -> None:
    answer = server.client.post("/predict", content=gzip.compress(picture(GREEN)), headers={"content-encoding": "gzip"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "PackedBody")
    assert "images are packed already, send them as they are" in answer.text


PAGE = "https://app.example.com"


@pytest.fixture(scope="module")
def open_to_pages(start_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Server]:
    """Start a server with a key that lets pages of these origins in."""
    keys = tmp_path_factory.mktemp("keys")
    (keys / "default").write_text("0" * 64)
    return lambda origins: start_server(api_keys_dir=str(keys), cors_allow_origins=origins)


@pytest.mark.feature("S3")
@pytest.mark.parametrize("origins", [PAGE, f"https://other.example.com,{PAGE}", "*"])
def test_browser_is_answered_about_a_page_before_the_key_is_asked(
    open_to_pages: Callable[[str], Server], origins: str
) -> None:
    server = open_to_pages(origins)
    headers = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    preflight = server.client.options("/predict", headers={"origin": PAGE} | headers)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] in (PAGE, "*")
    assert "Authorization" in preflight.headers["access-control-allow-headers"]
    refused = server.client.post("/predict", content=picture(GREEN), headers={"origin": PAGE})
    # Without the header, the page would see no status and no words.
    assert (refused.status_code, refused.headers["access-control-allow-origin"] in (PAGE, "*")) == (401, True)
    assert "x-model-digest" in refused.headers["access-control-expose-headers"]


@pytest.mark.feature("S3")
def test_browser_gets_no_leave_for_a_page_that_is_not_listed(open_to_pages: Callable[[str], Server]) -> None:
    server = open_to_pages(PAGE)
    headers = {"origin": "https://evil.example.com", "access-control-request-method": "POST"}
    preflight = server.client.options("/predict", headers=headers)
    assert (preflight.status_code, "access-control-allow-origin" in preflight.headers) == (400, False)


@pytest.mark.feature("S3")
def test_without_a_list_no_page_of_another_origin_gets_leave(server: Server) -> None:
    answer = server.client.post("/predict", content=picture(GREEN), headers={"origin": PAGE})
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_error_document_of_a_head_is_json(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(b"NONSENSE\r\n\r\n")
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 400")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "BadRequest"
