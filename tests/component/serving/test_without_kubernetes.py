"""A model folder served on a laptop, by the README's line as it stands."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.component.serving.conftest import GREEN, Server, picture
from tests.documents import run_by


@pytest.mark.feature("S3")
def test_readmes_line_serves_a_model_folder(model_folder: Path, tmp_path: Path) -> None:
    (block,) = run_by(__file__)
    (tmp_path / "model").symlink_to(model_folder)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["bash", "-c", block.text],
            env=os.environ | {"PATH": path, "PORT": port, "METRICS_PORT": "0"},
            cwd=tmp_path,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    server = Server(process, f"http://127.0.0.1:{port}", "", log, tmp_path / "termination-log")
    try:
        server.wait_until_ready()
        answer = server.client.post("/predict", files={"image": picture(GREEN)})
    finally:
        server.stop()
    assert answer.json()["label"] == "green"
