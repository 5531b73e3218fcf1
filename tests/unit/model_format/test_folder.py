"""The files of a model folder: labels, digests, and the layouts of other origins."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bloomery_model.folder import (
    FolderError,
    ForeignLayout,
    LabelsError,
    Metadata,
    format_labels,
    holds_onnx,
    model_digest,
    parse_labels,
    read_labels,
    write_labels,
)

EXPLAINED = ["explain.onnx", "labels.txt", "model.onnx"]
NAMES = ["Röschen", "犬", "a\u2028b"]


def test_labels_are_read_as_they_are_written(tmp_path: Path) -> None:
    assert parse_labels(format_labels(NAMES), name="labels.txt") == NAMES
    write_labels(tmp_path, NAMES)
    assert read_labels(tmp_path) == tuple(NAMES)


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


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b'{"files": []}'])
def test_metadata_that_describes_no_model_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError):
        Metadata.parse(content)


def test_metadata_has_the_digest_of_its_files() -> None:
    files = {"model.onnx": "sha256:1"}
    assert Metadata.parse(json.dumps({"files": files}).encode()).digest == model_digest(files)


@pytest.mark.parametrize(
    ("paths", "files", "labels"),
    [
        (["a.onnx", "classes.txt"], {"a.onnx": "model.onnx"}, "classes.txt"),
        (
            ["model.onnx", "MLmodel", "extra_files/labels.txt", "extra_files/preprocess.json"],
            {"model.onnx": "model.onnx", "extra_files/preprocess.json": "preprocess.json"},
            "extra_files/labels.txt",
        ),
        (
            ["a.onnx", "a.onnx.data", "labels.txt", "extra_files/labels.txt", "old/b.onnx"],
            {"a.onnx": "model.onnx", "a.onnx.data": "a.onnx.data"},
            "extra_files/labels.txt",
        ),
        (["a.onnx", "classes.txt", "extra_files/classes.txt"], {"a.onnx": "model.onnx"}, "classes.txt"),
    ],
    ids=["plain", "MLflow's", "weights beside the model, labels in both places", "classes in both places"],
)
def test_layout_of_another_origin(paths: list[str], files: dict[str, str], labels: str) -> None:
    assert ForeignLayout.of(paths) == ForeignLayout(files, labels)
    assert holds_onnx(paths)


@pytest.mark.parametrize(
    ("paths", "reason", "words"),
    [
        ([], "NotAModel", "it has nothing"),
        (["labels.txt"], "NotAModel", "it has none, but labels.txt"),
        (["a.onnx", "b.onnx", "labels.txt"], "NotAModel", "a.onnx, b.onnx"),
        (["a.onnx", "deep/labels.txt"], "NoLabels", "put labels.txt beside it"),
    ],
)
def test_folder_without_a_model_is_refused(paths: list[str], reason: str, words: str) -> None:
    with pytest.raises(FolderError, match=words) as refused:
        ForeignLayout.of(paths)
    assert refused.value.reason == reason


@pytest.mark.feature("T28")
def test_explanation_beside_a_model_is_no_second_model() -> None:
    assert ForeignLayout.of(EXPLAINED).files == {"model.onnx": "model.onnx"}
    assert ForeignLayout.of(EXPLAINED[:2]).files == {"explain.onnx": "model.onnx"}
