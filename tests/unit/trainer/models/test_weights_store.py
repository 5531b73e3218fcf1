"""Weight files put into a store, and refusals."""

from __future__ import annotations

import hashlib
import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision  # type: ignore[import-untyped]

from bloomery_trainer.config import PublishedWeights
from bloomery_trainer.errors import BadConfig, BadData, TrainerError, Unavailable
from bloomery_trainer.models import weights_store
from bloomery_trainer.models.presets import PRESETS
from bloomery_trainer.models.published import LocalWeights, WeightsFinder, published_file
from bloomery_trainer.models.weights_store import Upload
from bloomery_trainer.storage import Folder, S3Access, open_folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """The store's folder of weights, empty."""
    return open_folder(f"file://{tmp_path / 'weights'}", S3Access.from_environment({}), create=True)


PRESET = "mobilenet-v3-small"


@cache
def saved(value: float = 0.0) -> bytes:
    """A file of the preset's network as a training script leaves it, all of whose values are one."""
    network = torchvision.models.mobilenet_v3_small(num_classes=2).state_dict()
    filled = {name: torch.full(tensor.shape, value) for name, tensor in network.items()}
    buffer = io.BytesIO()
    torch.save({"model": filled, "epoch": 3}, buffer)
    return buffer.getvalue()


def put(folder: Folder, content: bytes, name: str = "mine.pt", preset: str | None = PRESET) -> dict[str, Any]:
    upload = Upload(name=name, sha256=hashlib.sha256(content).hexdigest(), preset=preset)
    return weights_store.put(upload, io.BytesIO(content), folder)


def manifest(folder: Folder, preset: str = PRESET) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(folder.read(f"{preset}/{weights_store.MANIFEST}"))
    return document


def described(folder: Folder) -> dict[str, Any]:
    return {item["preset"]: item for item in weights_store.describe(folder)}


@pytest.mark.feature("T19")
def test_pushed_file_lies_under_its_preset_with_its_digest(folder: Folder) -> None:
    content = saved()
    stored = put(folder, content)
    assert folder.read(f"{PRESET}/mine.pt") == content
    assert stored["uri"] == f"{folder.uri}/{PRESET}/mine.pt"
    about = manifest(folder)
    assert (about["file"], about["sha256"]) == ("mine.pt", hashlib.sha256(content).hexdigest())
    assert about["parameters"] > 1_500_000


@pytest.mark.feature("T19")
def test_new_file_of_the_same_name_leaves_the_old_one_readable(folder: Folder) -> None:
    put(folder, saved())
    before = manifest(folder)
    put(folder, saved(1.0))
    after = manifest(folder)
    # A training that read the document before the push still finds what it names.
    assert hashlib.sha256(folder.read(f"{PRESET}/{before['file']}")).hexdigest() == before["sha256"]
    assert hashlib.sha256(folder.read(f"{PRESET}/{after['file']}")).hexdigest() == after["sha256"]
    put(folder, saved(2.0), "third.pt")
    assert {file.path for file in folder.list(PRESET)} == {
        f"{PRESET}/{after['file']}", f"{PRESET}/third.pt", f"{PRESET}/weights.json",
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
    put(folder, saved(), preset=PRESET)
    folder.write("resnet50/weights.json", json.dumps({"file": "mine.pt", "sha256": "0" * 64}).encode())
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
        (b"", "mine.pt", PRESET, BadData, "mine.pt is empty"),
        (b"no weights", "mine.pt", PRESET, BadConfig, "mine.pt is no weight file of PyTorch or safetensors"),
        (b"no weights", "mine.onnx", PRESET, BadConfig, "'mine.onnx' cannot be stored"),
        (b"no weights", "../mine.pt", PRESET, BadConfig, "cannot be stored"),
        (b"no weights", "mine.pt", "vgg16", BadConfig, "there is no preset 'vgg16'; there are "),
        (b"no weights", "mine.pt", None, BadConfig, "say by --preset whose weights it holds"),
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
    upload = Upload(name="mine.pt", sha256=hashlib.sha256(content).hexdigest(), preset=PRESET)
    with pytest.raises(Unavailable, match="did not arrive whole"):
        weights_store.put(upload, io.BytesIO(content[:100]), folder)
    assert list(folder.list()) == []


@pytest.mark.feature("T20")
def test_file_of_another_network_names_the_nearest_preset(folder: Folder) -> None:
    with pytest.raises(BadConfig, match="the nearest preset is mobilenet-v3-small"):
        put(folder, saved(), preset="mobilenet-v2")
    assert list(folder.list()) == []


@pytest.mark.feature("T20")
def test_file_with_values_that_are_not_finite_is_refused(folder: Folder) -> None:
    with pytest.raises(BadConfig, match="not finite"):
        put(folder, saved(float("nan")))


@pytest.mark.feature("T20")
def test_file_without_tensors_is_refused(folder: Folder) -> None:
    buffer = io.BytesIO()
    torch.save({"epoch": 3}, buffer)
    with pytest.raises(BadConfig, match="holds no weights"):
        put(folder, buffer.getvalue())


@pytest.mark.feature("T19")
def test_pushed_weights_are_found_by_a_training_without_downloads(folder: Folder, tmp_path: Path) -> None:
    content = saved()
    put(folder, content)
    finder = WeightsFinder(
        file=published_file(PRESET, "DEFAULT"),
        any_pushed=True,
        settings=PublishedWeights(uri=folder.uri, download=False),
        open_folder=lambda uri: open_folder(uri, S3Access.from_environment({})),
        scratch=tmp_path,
    )
    weights = finder.find()
    assert isinstance(weights, LocalWeights)
    assert (weights.kind, weights.path.read_bytes()) == ("Pushed", content)
