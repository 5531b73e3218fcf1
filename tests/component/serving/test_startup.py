"""The time before a server has its model: probes, the room for the model, and texts that change later."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from testing.waiting import eventually
from tests.component.serving.conftest import START_SECONDS, StartServer

ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"


class SlowArtifacts:
    """MLflow's API for artifacts, which answers for the model itself only once it may."""

    def __init__(self, folder: Path) -> None:
        self.may_answer = threading.Event()
        artifacts = self

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path.startswith(f"{ARTIFACTS}?"):
                    files = [{"path": p.name, "file_size": p.stat().st_size} for p in folder.iterdir()]
                    self._send(json.dumps({"files": files}).encode())
                    return
                self.path = self.path.removeprefix(f"{ARTIFACTS}/model")
                if self.path.endswith("model.onnx"):
                    artifacts.may_answer.wait(START_SECONDS)
                super().do_GET()

            def _send(self, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def artifacts(model_folder: Path) -> Iterator[SlowArtifacts]:
    artifacts = SlowArtifacts(model_folder)
    threading.Thread(target=artifacts.server.serve_forever, daemon=True).start()
    yield artifacts
    artifacts.may_answer.set()
    artifacts.server.shutdown()
    artifacts.server.server_close()


def get(server: Any, path: str) -> httpx.Response | None:
    try:
        response: httpx.Response = server.client.get(path)
    except httpx.TransportError:
        return None
    return response


@pytest.mark.feature("S2", "O6")
def test_server_that_fetches_its_model_is_alive_and_not_ready(
    start_server: StartServer, artifacts: SlowArtifacts
) -> None:
    server = start_server(ready=False, model_uri="mlflow-artifacts:/model", mlflow_tracking_uri=artifacts.url)
    live = eventually(lambda: get(server, "/v2/health/live"), "the server answers its liveness probe")
    assert (live.status_code, live.json()) == (200, {"live": True})
    head = server.client.head("/v2/health/live")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(live.content)))
    assert server.client.get("/v2/health/ready").status_code == 503
    assert server.client.post("/predict", content=b"x").status_code == 503
    artifacts.may_answer.set()
    server.wait_until_ready()
    assert server.client.get("/v2/health/live").status_code == 200


@pytest.mark.feature("S2", "O7")
@pytest.mark.parametrize("is_trained", [True, False], ids=["of a training", "of elsewhere"])
def test_model_larger_than_its_room_is_refused_before_it_is_fetched(
    start_server: StartServer, model_folder: Path, tmp_path: Path, is_trained: bool
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in model_folder.iterdir():
        if is_trained or file.name != "metadata.json":
            (folder / file.name).write_bytes(file.read_bytes())
    room, local = (folder / "model.onnx").stat().st_size - 1, tmp_path / "local"
    server = start_server(ready=False, model_uri=f"file://{folder}", model_max_bytes=str(room), model_dir=str(local))
    assert server.process.wait(START_SECONDS) == 1
    error = json.loads(server.termination_log.read_text())["error"]
    assert error["reason"] == "ModelTooLarge"
    assert "raise the variant's scratch" in error["message"]
    assert not local.exists(), "nothing was fetched"


@pytest.mark.feature("S12")
def test_texts_and_names_of_a_running_server_follow_their_file(start_server: StartServer, tmp_path: Path) -> None:
    file = tmp_path / "about.json"
    server = start_server(about_file=str(file), display_name="Farbne", variant="v1", cors_allow_origins="*")
    assert "Farbne" in server.client.get("/upload").text
    assert "x-model" not in server.client.get("/v2/health/live").headers
    about = {"display_name": "Farben", "description": "Drei.", "model_name": "colours", "model_version": "4"}
    file.write_text(json.dumps(about))

    def headers() -> httpx.Headers | None:
        response_headers = server.client.get("/v2/health/live").headers
        return response_headers if "x-model" in response_headers else None

    assert eventually(headers, "the header names the model")["x-model"] == "colours/4"
    page = server.client.get("/upload").text
    assert "Farben" in page
    assert "Farbne" not in page
    assert server.client.get("/openapi.json").json()["info"]["title"] == "Farben"
    document = server.client.get("/v2/models/colours").json()
    assert document["versions"] == ["4"], "all replicas have one version, whenever they started"
    answer = server.client.get("/v2/health/live", headers={"origin": "https://app.example.com"})
    assert "x-model" in re.split(", *", answer.headers["access-control-expose-headers"])
    assert server.metric("bloomery_model_info", model="colours", version="4") == 1
    assert server.metric("bloomery_model_info") == 1, "the former identity is gone"
    # A file that holds something else leaves what is known.
    file.write_text("[]")
    time.sleep(1.2)  # the server looks at it once a second
    assert server.client.get("/v2/health/live").headers["x-model"] == "colours/4"
