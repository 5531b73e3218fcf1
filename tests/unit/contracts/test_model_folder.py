"""The trainer's import and the model server read the same classes and digest out of a folder from elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bloomery_model.folder import LabelsError, format_labels, model_digest, parse_labels
from bloomery_serving.storage import fetch_model
from bloomery_trainer import importing, model_folder
from bloomery_trainer.storage import S3Access, open_folder

NAMES = ["Röschen", "犬", "a\u2028b"]
FILES = {
    "labels.txt": "\n".join(NAMES).encode(),
    "classes.txt": "\r\n".join([*NAMES, "", ""]).encode("utf-8-sig"),
    "labels.json": json.dumps({str(number): name for number, name in enumerate(NAMES)}).encode("utf-8-sig"),
}


@pytest.mark.parametrize("name", FILES)
def test_import_and_server_read_the_same_classes_and_digest(name: str, tmp_path: Path) -> None:
    source, imported = tmp_path / "source", tmp_path / "imported"
    source.mkdir()
    imported.mkdir()
    (source / "any.onnx").write_bytes(b"a network")
    (source / name).write_bytes(FILES[name])
    uri = f"file://{source}"
    fetched = importing.fetch(open_folder(uri, S3Access.from_environment({})), imported)
    served = fetch_model(uri, tmp_path / "served", digest="", environment={})
    assert list(model_folder.read_classes(imported)) == NAMES
    assert (tmp_path / "served" / "labels.txt").read_bytes() == (imported / "labels.txt").read_bytes()
    assert fetched.digest == served.digest


def test_labels_are_read_as_they_are_written() -> None:
    assert parse_labels(format_labels(NAMES), name="labels.txt") == NAMES


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.txt", b"\xff\xfe"),
        ("labels.json", b"{"),
        ("labels.json", b'{"1": "rose"}'),
        ("labels.json", b"[1, 2]"),
        ("labels.json", b'"rose"'),
        ("labels.json", b'["\\ud800"]'),
    ],
)
def test_file_that_names_no_classes_is_refused(name: str, content: bytes) -> None:
    with pytest.raises(LabelsError, match="UTF-8"):
        parse_labels(content, name=name)


def test_model_digest_is_of_canonical_json() -> None:
    assert model_digest({"b": "sha256:2", "a": "sha256:1"}) == model_digest({"a": "sha256:1", "b": "sha256:2"})
    assert model_digest({"a": "sha256:1"}) == "sha256:30fd249d502a4e0c6d78eb2511d4a32d3f5da54728c865a00b1d019df468e871"
