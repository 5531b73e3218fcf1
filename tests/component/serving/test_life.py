"""Starting with the right model or not at all, and stopping without losing a request."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import time

import pytest

from bloomery_model.folder import model_digest
from tests.component.serving.conftest import START_SECONDS

pytestmark = pytest.mark.feature("S2")


def refused(start_server, **settings):
    server = start_server(ready=False, **settings)
    assert server.process.wait(START_SECONDS) == 1
    assert "Traceback" not in server.log.read_text()
    return json.loads(server.termination_log.read_text())["error"]


def test_model_with_another_digest_is_refused_with_both(start_server, model_folder):
    files = json.loads((model_folder / "metadata.json").read_text())["files"]
    error = refused(start_server, model_digest="sha256:0000")
    assert error["reason"] == "DigestMismatch"
    assert "sha256:0000" in error["message"]
    assert model_digest(files) in error["message"]


def test_file_that_was_changed_is_refused_by_name(start_server, model_folder, tmp_path):
    changed = shutil.copytree(model_folder, tmp_path / "changed")
    (changed / "labels.txt").write_text("red\ngreen\nyellow\n")
    error = refused(start_server, model_uri=f"file://{changed}")
    assert (error["reason"], "labels.txt" in error["message"]) == ("DigestMismatch", True)


@pytest.mark.parametrize(
    ("uri", "reason"), [("file:///nowhere", "ModelNotFound"), ("ftp://x/y", "BadModelURI"), ("", "BadModelURI")]
)
def test_address_without_a_model_is_refused_in_words(start_server, uri, reason):
    assert refused(start_server, model_uri=uri)["reason"] == reason


def test_request_under_way_is_answered_after_sigterm(start_server):
    server = start_server()
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        # The body is not complete yet: the request is under way when the signal comes.
        headers = "host: x\r\ncontent-type: image/png\r\ncontent-length: 5\r\nexpect: 100-continue"
        connection.sendall(f"POST /predict HTTP/1.1\r\n{headers}\r\n\r\n".encode())
        assert b"100 Continue" in connection.recv(4096)
        connection.sendall(b"hel")
        server.process.send_signal(signal.SIGTERM)
        _wait_until_refused(host, int(port))
        connection.sendall(b"lo")
        assert b"NotAnImage" in connection.makefile("rb").read()
    assert server.process.wait(20) == 0


def _wait_until_refused(host: str, port: int) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            socket.create_connection((host, port), timeout=1).close()
        except OSError:
            return
        time.sleep(0.05)
    raise AssertionError("the stopping server still takes new connections after 10 s")
