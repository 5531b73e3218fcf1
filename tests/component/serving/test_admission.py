"""Admission control of a busy server: requests that wait, that are refused, and whose clients leave."""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from bloomery_model.cgroup import cpu_count
from tests.component.serving.conftest import GREEN, Server, StartServer, picture

pytestmark = pytest.mark.feature("S3")

BUSY_SECONDS = 120
IN_FLIGHT = "bloomery_requests_in_flight"
REQUESTS = "bloomery_requests_total"


def begin(server: Server, *headers: str, body: bytes = b"") -> socket.socket:
    """Send the head of a request to predict, and the start of its body."""
    connection = server.connect()
    lines = ["POST /predict HTTP/1.1", "host: x", *headers]
    connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    return connection


@contextmanager
def stalled(server: Server, count: int, *, body: bytes = b"x") -> Iterator[list[socket.socket]]:
    """Requests of whose bodies one byte does not come."""
    head = f"content-length: {len(body) + 1}"
    with ExitStack() as stack:
        yield [stack.enter_context(begin(server, head, body=body)) for _ in range(count)]


@contextmanager
def busy(server: Server, count: int) -> Iterator[list[socket.socket]]:
    """Requests that keep as many workers busy for seconds: images of 25 megapixels."""
    large = picture(GREEN, size=(5000, 5000))
    form = b"".join(
        b'--b\r\ncontent-disposition: form-data; name="image"; filename="%d.png"\r\n\r\n%s\r\n' % (number, large)
        for number in range(3)
    )
    body = form + b"--b--\r\n"
    head = ("content-type: multipart/form-data; boundary=b", f"content-length: {len(body)}")
    with ExitStack() as stack:
        connections = [stack.enter_context(begin(server, *head, body=body)) for _ in range(count)]
        for connection in connections:
            connection.settimeout(BUSY_SECONDS)
        yield connections


def answer_to(connection: socket.socket) -> http.client.HTTPResponse:
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response


def test_request_too_many_is_refused_before_its_body_is_read(start_server: StartServer) -> None:
    server = start_server(queue_size="1")
    with busy(server, 1) as (working,):
        server.wait_for(1, "bloomery_stage_seconds_count", stage="queue")
        with begin(server, "content-length: 5000000") as connection:  # not one byte of the body is sent
            response = answer_to(connection)
            assert (response.status, response.headers["retry-after"]) == (429, "1")
            assert json.loads(response.read())["error"]["message"] == "1 requests wait already; try again in a second."
        assert server.client.get("/v2/health/ready").status_code == 200
        assert server.client.post("/v2/models/colours/infer").json() == {
            "error": "1 requests wait already; try again in a second."
        }
        assert server.metric(REQUESTS, code="429", route="/predict") == 1
        assert server.metric(REQUESTS, code="429", route="/v2/models/{model_name}/infer") == 1
        assert answer_to(working).status == 200


@pytest.mark.feature("O7")
def test_missing_bodies_take_no_place_of_complete_ones(start_server: StartServer) -> None:
    server = start_server(queue_size="1", receiving_size="3")
    with stalled(server, 2):
        server.wait_for(2, IN_FLIGHT)
        assert server.client.post("/predict", content=picture(GREEN)).json()["label"] == "green"
    server.wait_for(0, IN_FLIGHT)


@pytest.mark.feature("O7")
def test_announced_bytes_cost_nobody_anything_until_they_arrive(start_server: StartServer) -> None:
    server = start_server(queue_bytes="1000000")
    with begin(server, "content-length: 900000", body=b"x"), begin(server, "content-length: 900000", body=b"x"):
        server.wait_for(2, IN_FLIGHT)
        assert server.client.post("/predict", content=bytes(900_000)).json()["error"]["code"] == "NotAnImage"


@pytest.mark.feature("O7")
def test_each_key_has_places_that_no_other_key_can_take(start_server: StartServer, tmp_path: Path) -> None:
    for name in ("greedy", "modest"):
        (tmp_path / name).write_text(hashlib.sha256(name.encode()).hexdigest())
    server = start_server(receiving_size="8", api_keys_dir=str(tmp_path))
    greedy, modest = ({"authorization": name} for name in ("greedy", "modest"))
    with ExitStack() as stack:
        for _ in range(8):
            head = ("authorization: greedy", "content-length: 9")
            stack.enter_context(begin(server, *head, body=b"x"))
        server.wait_for(8, IN_FLIGHT)
        assert server.client.post("/predict", content=picture(GREEN), headers=greedy).status_code == 429
        assert server.client.post("/predict", content=picture(GREEN), headers=modest).json()["label"] == "green"


def test_client_that_leaves_frees_its_place_without_an_error(start_server: StartServer) -> None:
    server = start_server(queue_size="2")
    with stalled(server, 2):
        server.wait_for(2, IN_FLIGHT)
    server.wait_for(0, IN_FLIGHT)
    assert server.client.post("/predict", content=picture(GREEN)).json()["label"] == "green"
    assert server.metric(REQUESTS, code="499") == 2
    assert server.metric(REQUESTS, code="500") == 0
    assert "Traceback" not in server.log.read_text()


def test_bytes_of_all_bodies_are_bounded_and_small_ones_pass(start_server: StartServer) -> None:
    server = start_server(queue_bytes="1000000")
    with stalled(server, 1, body=bytes(900_000)):
        server.wait_for(1, IN_FLIGHT)
        refused = server.client.post("/predict", content=bytes(200_000))
        assert refused.status_code == 429
        assert "bytes together" in refused.json()["error"]["message"]
        assert server.client.post("/predict", content=picture(GREEN)).json()["label"] == "green"
    server.wait_for(0, IN_FLIGHT)
    assert server.client.post("/predict", content=bytes(2_000_000)).json()["error"]["code"] == "NotAnImage"


def test_body_without_end_is_cut_off(start_server: StartServer) -> None:
    server = start_server(max_images="1", max_image_bytes="1000")
    answer = server.client.post("/predict", content=(bytes(100_000) for _ in range(20)))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "BodyTooLarge")


def test_body_that_does_not_come_times_out(start_server: StartServer) -> None:
    server = start_server(body_seconds="0.5")
    with stalled(server, 1) as (connection,):
        response = answer_to(connection)
        assert response.status == 408
        assert "1 bytes of its body came within 0.5 seconds" in json.loads(response.read())["error"]["message"]
    server.wait_for(0, IN_FLIGHT)


def test_nothing_is_computed_for_a_client_that_left(start_server: StartServer) -> None:
    server = start_server()
    workers = cpu_count()
    with busy(server, workers) as working:
        server.wait_for(workers, "bloomery_stage_seconds_count", stage="queue")
        with busy(server, 3):
            server.wait_for(workers + 3, IN_FLIGHT)
        server.wait_for(workers, IN_FLIGHT)
        assert [answer_to(connection).status for connection in working] == [200] * workers
    assert server.client.post("/predict", content=picture(GREEN)).status_code == 200
    assert server.metric("bloomery_stage_seconds_count", stage="infer") == workers + 1
    assert server.metric(REQUESTS, code="499") == 3


@pytest.mark.feature("O7")
def test_small_images_do_not_wait_for_large_ones(start_server: StartServer) -> None:
    server = start_server()
    with busy(server, 2 * cpu_count()) as working:
        server.wait_for(len(working), "bloomery_stage_seconds_count", stage="queue")
        assert server.client.post("/predict", content=picture(GREEN)).json()["label"] == "green"
        assert server.metric("bloomery_stage_seconds_count", stage="infer") == 1
        assert [answer_to(connection).status for connection in working] == [200] * len(working)


@pytest.mark.parametrize("size", [200_000, 20_000_000])
def test_refusal_reaches_a_client_that_sends_and_the_connection_stays(start_server: StartServer, size: int) -> None:
    server = start_server(queue_size="0")
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=30)
    for _ in range(3):
        connection.request("POST", "/predict", body=bytes(size))
        response = connection.getresponse()
        assert (response.status, response.headers["connection"]) == (429, None)
        response.read()
    connection.close()
