"""Putting weight files into a store, and what is refused."""

from __future__ import annotations

import hashlib
import io
import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from bloomery_trainer.errors import BadConfig, BadData, TrainerError, Unavailable
from bloomery_trainer.models import weights_store
from bloomery_trainer.models.weights_store import Upload
from bloomery_trainer.storage import Folder, S3Access, open_folder
from bloomery_trainer.train.presets import PRESETS


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """The store's folder of weights, empty."""
    return open_folder(f"file://{tmp_path / 'weights'}", S3Access.from_environment({}), create=True)


def saved(value: float = 0.0) -> bytes:
    buffer = io.BytesIO()
    torch.save({"model": {"conv1.weight": torch.full((2, 3), value), "fc.bias": torch.zeros(4)}, "epoch": 3}, buffer)
    return buffer.getvalue()


def put(folder: Folder, content: bytes, name: str = "mine.pt", preset: str | None = "resnet18") -> dict[str, Any]:
    upload = Upload(name=name, sha256=hashlib.sha256(content).hexdigest(), preset=preset)
    return weights_store.put(upload, io.BytesIO(content), folder)


def manifest(folder: Folder, preset: str = "resnet18") -> dict[str, Any]:
    document: dict[str, Any] = json.loads(folder.read(f"{preset}/{weights_store.MANIFEST}"))
    return document


def described(folder: Folder) -> dict[str, Any]:
    return {item["preset"]: item for item in weights_store.describe(folder)}


@pytest.mark.feature("T19")
def test_pushed_file_lies_under_its_preset_with_its_digest(folder: Folder) -> None:
    content = saved()
    stored = put(folder, content)
    assert folder.read("resnet18/mine.pt") == content
    assert stored["uri"] == f"{folder.uri}/resnet18/mine.pt"
    about = manifest(folder)
    assert (about["file"], about["sha256"]) == ("mine.pt", hashlib.sha256(content).hexdigest())
    assert about["parameters"] == 10


@pytest.mark.feature("T19")
def test_push_of_a_safetensors_file_counts_by_its_header(folder: Folder) -> None:
    header = {"conv1.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, "__metadata__": {"a": "b"}}
    text = json.dumps(header).encode()
    assert put(folder, struct.pack("<Q", len(text)) + text + bytes(24), "mine.safetensors")["parameters"] == 6


@pytest.mark.feature("T19")
def test_new_file_of_the_same_name_leaves_the_old_one_readable(folder: Folder) -> None:
    put(folder, saved(0))
    before = manifest(folder)
    put(folder, saved(1))
    after = manifest(folder)
    # A training that read the document before the push still finds what it names.
    assert hashlib.sha256(folder.read(f"resnet18/{before['file']}")).hexdigest() == before["sha256"]
    assert hashlib.sha256(folder.read(f"resnet18/{after['file']}")).hexdigest() == after["sha256"]
    put(folder, saved(2), "third.pt")
    assert {file.path for file in folder.list("resnet18")} == {
        f"resnet18/{after['file']}", "resnet18/third.pt", "resnet18/weights.json",
    }  # fmt: skip


@pytest.mark.feature("T19")
def test_torchvision_file_is_known_by_its_name_and_digest(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    content = saved()
    name = f"resnet18-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    monkeypatch.setattr(weights_store, "_published_names", lambda: frozenset({name, "resnet18-f37072fd.pth"}))
    put(folder, content, name, preset=None)
    assert folder.read(name) == content
    with pytest.raises(BadData, match="does not begin with the digits in its name"):
        put(folder, content, "resnet18-f37072fd.pth", preset=None)


@pytest.mark.feature("T19")
def test_list_names_what_each_preset_starts_from(folder: Folder) -> None:
    put(folder, saved(), preset="resnet50")
    folder.write("resnet18-f37072fd.pth", b"as if published")
    presets = described(folder)
    assert list(presets) == list(PRESETS)
    assert presets["resnet18"] == {
        "preset": "resnet18", "pushed": None, "published": "resnet18-f37072fd.pth", "stored": True,
    }  # fmt: skip
    assert presets["resnet50"]["pushed"]["file"] == "mine.pt"
    # general is the same network.
    assert presets["general"]["pushed"]["file"] == "mine.pt"
    assert (presets["resnet34"]["pushed"], presets["resnet34"]["stored"]) == (None, False)


@pytest.mark.feature("T19")
@pytest.mark.parametrize(
    ("content", "name", "preset", "error", "words"),
    [
        (b"", "mine.pt", "resnet18", BadData, "mine.pt is empty"),
        (b"no weights", "mine.pt", "resnet18", BadData, "mine.pt is no file of PyTorch weights"),
        (b"no weights", "mine.safetensors", "resnet18", BadData, "mine.safetensors is no safetensors file"),
        (saved(), "mine.onnx", "resnet18", BadConfig, "'mine.onnx' cannot be stored"),
        (saved(), "../mine.pt", "resnet18", BadConfig, "cannot be stored"),
        (saved(), "mine.pt", "vgg16", BadConfig, "there is no preset 'vgg16'; there are "),
        (saved(), "mine.pt", None, BadConfig, "say by --preset whose weights it holds"),
    ],
)
def test_what_is_no_file_of_weights_is_refused_and_not_stored(
    folder: Folder, content: bytes, name: str, preset: str | None, error: type[TrainerError], words: str
) -> None:
    with pytest.raises(error, match=words):
        put(folder, content, name, preset)
    assert list(folder.list()) == []


@pytest.mark.feature("T19")
def test_upload_that_breaks_off_stores_nothing(folder: Folder) -> None:
    content = saved()
    upload = Upload(name="mine.pt", sha256=hashlib.sha256(content).hexdigest(), preset="resnet18")
    with pytest.raises(Unavailable, match="did not arrive whole"):
        weights_store.put(upload, io.BytesIO(content[:100]), folder)
    assert list(folder.list()) == []


@pytest.mark.parametrize("shape", [{}, {"model": {}}, {"epoch": 3}])
def test_file_without_tensors_is_refused(folder: Folder, shape: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(shape, buffer)
    with pytest.raises(BadData, match="holds no weights"):
        put(folder, buffer.getvalue())
