"""Import, training and the model server understand the same of a model folder and of the store that it is in."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bloomery_model.folder import read_labels
from bloomery_serving.sources import open_source
from bloomery_serving.storage import fetch_model
from bloomery_trainer import model_folder
from bloomery_trainer.models import served_files
from bloomery_trainer.storage import S3Access, open_folder

NAMES = ["Röschen", "犬", "a\u2028b"]
TOKEN = "session+token/of=="
FILES = {
    "labels.txt": "\n".join(NAMES).encode("utf-8-sig"),
    "classes.txt": "\r\n".join([*NAMES, "", ""]).encode("utf-8-sig"),
    "labels.json": json.dumps({str(number): name for number, name in enumerate(NAMES)}).encode("utf-8-sig"),
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with a model that no training wrote, in a folder whose name a URI must escape."""
    folder = tmp_path / "a source"
    folder.mkdir()
    (folder / "any.onnx").write_bytes(b"a network")
    return folder


def require_the_same(source: Path, tmp_path: Path) -> None:
    """Check that import and server make the same labels and digest of a folder."""
    imported = tmp_path / "imported"
    imported.mkdir()
    folder = open_folder(source.as_uri(), S3Access.from_environment({}))
    assert model_folder.folder_kind(folder) == "Onnx"
    fetched = served_files.fetch_model(folder, imported)
    served = fetch_model(source.as_uri(), tmp_path / "served", digest="", environment={})
    assert list(read_labels(imported)) == NAMES
    assert list(read_labels(tmp_path / "served")) == NAMES
    assert (tmp_path / "served" / "labels.txt").read_bytes() == (imported / "labels.txt").read_bytes()
    assert fetched.digest == served.digest


@pytest.mark.parametrize("name", FILES)
def test_labels_with_a_byte_order_mark_are_the_same_classes(name: str, source: Path, tmp_path: Path) -> None:
    (source / name).write_bytes(FILES[name])
    require_the_same(source, tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_files_in_extra_files_are_those_of_the_model(name: str, source: Path, tmp_path: Path) -> None:
    (source / "extra_files").mkdir()
    (source / "extra_files" / name).write_bytes(FILES[name])
    preprocess = json.dumps({"resize": 36, "crop": 32, "mean": [0, 0, 0], "std": [1, 1, 1]})
    (source / "extra_files" / "preprocess.json").write_text(preprocess)
    require_the_same(source, tmp_path)
    assert (tmp_path / "imported" / "preprocess.json").read_text() == preprocess
    assert (tmp_path / "served" / "preprocess.json").read_text() == preprocess


def test_byte_order_mark_of_a_trainings_folder_is_no_class_text(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    contents = {"model.onnx": b"a network", "labels.txt": FILES["labels.txt"], "preprocess.json": b"{}"}
    for name, content in contents.items():
        (source / name).write_bytes(content)
    files = {name: f"sha256:{hashlib.sha256(content).hexdigest()}" for name, content in contents.items()}
    (source / "metadata.json").write_text(json.dumps({"format": 1, "files": files}))
    served = fetch_model(source.as_uri(), tmp_path / "served", digest="", environment={})
    assert list(read_labels(tmp_path / "served")) == NAMES
    assert list(read_labels(source)) == NAMES
    stored = model_folder.require_stored(open_folder(source.as_uri(), S3Access.from_environment({})))
    assert stored.digest == served.digest


@pytest.fixture
def store() -> Iterator[tuple[str, list[str | None]]]:
    """A store that has every file, and the session tokens of the requests that came."""
    tokens: list[str | None] = []

    class Store(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            tokens.append(self.headers["x-amz-security-token"])
            self.send_response(200)
            self.send_header("content-length", "2")
            self.send_header("last-modified", "Thu, 01 Jan 2026 00:00:00 GMT")
            self.send_header("etag", '"1"')
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            """Keep the tests' output quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Store)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", tokens
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("process_token", [None, "another"])
def test_session_token_is_that_of_the_environment(
    store: tuple[str, list[str | None]], process_token: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint, tokens = store
    if process_token is None:
        monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    else:
        monkeypatch.setenv("AWS_SESSION_TOKEN", process_token)
    environment = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_SESSION_TOKEN": TOKEN,
    }
    folder = open_folder("s3://models/flowers", S3Access.from_environment(environment))
    assert folder.read("metadata.json") == b"{}"
    assert open_source("s3://models/flowers", environment).read("metadata.json") == b"{}"
    assert tokens == [TOKEN, TOKEN]
