"""Comparison of a new model's answers with those of the pods that it replaces, by real servers."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from testing.processes import free_port
from tests.component.serving.conftest import BLUE, GREEN, RED, Server, StartServer, picture, write_model

pytestmark = pytest.mark.feature("S21")

TOKEN = "of-the-service"
COMPARED, DISAGREEMENTS = "bloomery_compared_images_total", "bloomery_disagreements_total"
WAIT_SECONDS = 60.0


@pytest.fixture(scope="module")
def peer_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def replaced(start_server: StartServer, peer_port: int) -> Server:
    """A server with the model that is replaced."""
    return start_server(compare_port=str(peer_port), compare_token=TOKEN)


@pytest.fixture
def new(start_server: StartServer, tmp_path: Path) -> Mapping[str, Path | Server]:
    """A server with a model that takes green for blue, and its file with the address of the replaced one."""
    folder, about = tmp_path / "model", tmp_path / "about.json"
    folder.mkdir()
    write_model(folder, labels=("red", "blue", "green"))
    about.write_text("{}")
    server = start_server(
        model_uri=f"file://{folder}", compare_port=str(free_port()), compare_token=TOKEN, about_file=str(about)
    )
    return {"server": server, "about": about}


def compare(server: Server, image: bytes, *, until: float) -> None:
    """Send an image until so many were compared: at most two are in a second."""
    end = time.monotonic() + WAIT_SECONDS
    while server.metric(COMPARED) < until:
        assert time.monotonic() < end, server.log.read_text()
        assert server.client.post("/predict", content=image).status_code == 200


def ask(port: int, content: bytes, *, token: str = TOKEN, path: str = "/compare") -> httpx.Response:
    return httpx.post(f"http://127.0.0.1:{port}{path}", content=content, headers={"Authorization": f"Bearer {token}"})


def test_disagreement_with_the_replaced_model_is_counted(
    new: Mapping[str, Server | Path], replaced: Server, peer_port: int
) -> None:
    server, about = new["server"], new["about"]
    assert isinstance(server, Server)
    assert isinstance(about, Path)
    assert server.client.post("/predict", content=picture(RED)).status_code == 200
    assert (server.metric(COMPARED), server.metric(DISAGREEMENTS)) == (0, 0)
    about.write_text(json.dumps({"peer": f"http://127.0.0.1:{peer_port}"}))
    compare(server, picture(RED), until=1)
    assert server.metric(DISAGREEMENTS) == 0
    compare(server, picture(GREEN), until=server.metric(COMPARED) + 2)
    assert server.metric(DISAGREEMENTS) >= 1
    # Not one of these is a request, or an answer, of the replaced model.
    assert replaced.metric("bloomery_requests_total", route="/predict") == 0
    assert replaced.metric("bloomery_predictions_total") == 0


def test_replaced_model_that_does_not_answer_costs_no_request(new: Mapping[str, Server | Path]) -> None:
    server, about = new["server"], new["about"]
    assert isinstance(server, Server)
    assert isinstance(about, Path)
    about.write_text(json.dumps({"peer": f"http://127.0.0.1:{free_port()}"}))
    end = time.monotonic() + WAIT_SECONDS
    while server.metric("bloomery_failed_comparisons_total") < 1:
        assert time.monotonic() < end, server.log.read_text()
        assert server.client.post("/predict", content=picture(BLUE)).status_code == 200
    assert server.metric(COMPARED) == 0
    assert "gives no class to compare with" in server.log.read_text()


def test_port_answers_the_class_to_the_token_alone(replaced: Server, peer_port: int) -> None:
    assert ask(peer_port, picture(BLUE)).json() == {"label": "blue"}
    wrong = ask(peer_port, picture(BLUE), token="another")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (401, "Unauthorized")
    damaged = ask(peer_port, b"no image")
    assert (damaged.status_code, damaged.json()["error"]["code"]) == (400, "NotAnImage")
    assert ask(peer_port, picture(BLUE), path="/predict").status_code == 404
    # The port of the clients has no such path.
    assert replaced.client.post("/compare", content=picture(BLUE)).status_code == 404


def test_image_that_is_too_large_is_refused(peer_port: int, replaced: Server) -> None:
    assert ask(peer_port, bytes(10 * 1024 * 1024 + 1)).status_code == 413
    assert ask(peer_port, picture(RED)).json() == {"label": "red"}
    assert replaced.process.poll() is None


def test_without_a_token_the_port_is_closed(start_server: StartServer) -> None:
    port = free_port()
    start_server(compare_port=str(port))
    with pytest.raises(httpx.ConnectError):
        ask(port, picture(RED))
