"""Weight files of any origin: those that are read, those that are refused, and the values taken from them."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision  # type: ignore[import-untyped]
from safetensors.torch import save_file
from torch import Tensor, nn

from bloomery_model import Preprocess
from bloomery_model.folder import SERVED_FILES
from bloomery_trainer import model_folder
from bloomery_trainer.config import TrainConfig
from bloomery_trainer.errors import BadConfig
from bloomery_trainer.models import weights
from bloomery_trainer.models.initial import Initial, load, load_pretrained, require_preset
from bloomery_trainer.models.presets import PRESETS
from bloomery_trainer.models.weights import find_state_dict, read_document
from bloomery_trainer.storage import S3Access, open_folder

Train = Callable[..., Any]
State = dict[str, Tensor]
NO_ACCESS = S3Access(endpoint=None, region="us-east-1", key_id=None, secret=None, session_token=None)

NETWORKS = [name for name in PRESETS if name not in ("general", "high-precision", "high-performance")]
BACKBONE = Path(
    os.environ.get("WEIGHTS") or Path(__file__).parents[4].parent / "shared/data/mobilenet_v2_imagenet_backbone.pt"
)


@pytest.fixture(scope="module")
def resnet18() -> State:
    """The weights of a ResNet-18 for 10 classes, as the network's own names have them."""
    torch.manual_seed(0)
    state: State = torchvision.models.resnet18(num_classes=10).state_dict()
    return state


def without_counters(state: State) -> State:
    return {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}


def prefixed(state: State, prefix: str) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


def without_head(state: State) -> State:
    return {name: value for name, value in state.items() if not name.startswith("fc.")}


LAYOUTS: dict[str, Callable[[State], dict[str, Any]]] = {
    "plain": lambda state: dict(state),
    "no-counters": without_counters,
    "no-head": without_head,
    "half": lambda state: {name: v.half() if v.is_floating_point() else v for name, v in state.items()},
    "bfloat16": lambda state: {name: v.bfloat16() if v.is_floating_point() else v for name, v in state.items()},
    "double": lambda state: {name: v.double() if v.is_floating_point() else v for name, v in state.items()},
    # torchvision/references/classification/train.py
    "torchvision-references": lambda state: {
        "model": state, "optimizer": {"state": {}}, "lr_scheduler": {"last_epoch": 3}, "epoch": 3,
        "args": argparse.Namespace(model="resnet18", lr=0.1),
    },
    "torchvision-references-ema": lambda state: {
        "model": {name: torch.zeros_like(value) for name, value in state.items()}, "epoch": 3,
        "model_ema": {"n_averaged": torch.tensor(7), **prefixed(state, "module.")},
    },
    # timm's CheckpointSaver
    "timm": lambda state: {"epoch": 1, "arch": "resnet18", "state_dict": state, "version": 2, "metric": 71.3},
    "timm-ema": lambda state: {"state_dict": without_counters(state), "state_dict_ema": state},
    # examples/imagenet of PyTorch: under DataParallel
    "imagenet-example": lambda state: {
        "epoch": 1, "arch": "resnet18", "state_dict": prefixed(state, "module."), "best_acc1": torch.tensor(71.3),
    },
    "tutorial": lambda state: {
        "epoch": 1, "model_state_dict": state, "optimizer_state_dict": {"state": {}}, "loss": 1.5,
    },
    "lightning": lambda state: {
        "state_dict": prefixed(state, "model."), "pytorch-lightning_version": "2.5.0", "hyper_parameters": {},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.9)}},
    },
    "compiled-in-parallel": lambda state: prefixed(state, "module._orig_mod."),
    "backbone-and-other-head": lambda state: {
        **prefixed(without_head(state), "backbone."), "head.weight": torch.zeros(3, 512),
    },
    "nested": lambda state: {"model": {"state_dict": state, "epoch": 3}},
}  # fmt: skip


def read(path: Path) -> weights.StateDict:
    return find_state_dict(read_document(path, where=str(path)), where=str(path))


def taken_over(path: Path, preset: str = "resnet18", classes: tuple[str, ...] = ("a", "b")) -> tuple[State, list[str]]:
    """The state dict of a new network that starts from a file, and the notes."""
    state = read(path)
    initial = Initial(weights=state.tensors, origin="the file", classes=state.classes)
    require_preset(initial, preset)
    known = PRESETS[preset]
    model = known.build(len(classes), image_size=known.image_size)
    notes = load_pretrained(model, initial, classes=classes, head=known.head(image_size=known.image_size))
    return model.state_dict(), notes


def refusal(action: Callable[[], object]) -> BadConfig:
    with pytest.raises(BadConfig) as caught:
        action()
    return caught.value


@pytest.mark.feature("T20")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_of_any_common_layout_are_taken_whole(resnet18: State, tmp_path: Path, layout: str) -> None:
    torch.save(LAYOUTS[layout](resnet18), tmp_path / "weights.pt")
    after, notes = taken_over(tmp_path / "weights.pt")

    tolerance = 1e-2 if layout in ("half", "bfloat16") else 0
    for name, value in without_counters(without_head(resnet18)).items():
        assert torch.allclose(after[name], value, atol=tolerance, rtol=tolerance), name
    assert after["conv1.weight"].dtype == torch.float32
    assert len(notes) == (2 if layout == "backbone-and-other-head" else 1)


@pytest.mark.feature("T20")
def test_safetensors_files_are_read(resnet18: State, tmp_path: Path) -> None:
    save_file(prefixed(resnet18, "module."), tmp_path / "model.safetensors", metadata={"format": "pt"})
    after, _ = taken_over(tmp_path / "model.safetensors")

    assert torch.equal(after["conv1.weight"], resnet18["conv1.weight"])


@pytest.mark.feature("T20")
def test_legacy_pickle_files_are_read(resnet18: State, tmp_path: Path) -> None:
    torch.save(resnet18, tmp_path / "old.pth", _use_new_zipfile_serialization=False)

    assert read(tmp_path / "old.pth").tensors.keys() == resnet18.keys()


@pytest.mark.feature("T20")
def test_training_starts_from_a_checkpoint_of_torchvisions_references(
    train: Train, resnet18: State, tmp_path: Path
) -> None:
    torch.save(LAYOUTS["torchvision-references"](resnet18), tmp_path / "checkpoint.pth")
    ended = train(
        {"learningRate": 1e-9, "maxSteps": 1},
        initialModel={"uri": f"file://{tmp_path}/checkpoint.pth", "origin": "references"},
        output={"uri": f"file://{tmp_path}/output"},
    )

    assert ended.code == 0, ended.message
    after = torch.load(tmp_path / "output/model/state.pt", weights_only=True)
    assert torch.allclose(after["conv1.weight"], resnet18["conv1.weight"], atol=1e-6)
    note = "Training starts from references; its classes are not known, so the head is new."
    assert note in ended.message["notes"]
    assert ended.message["initialModel"] == {"kind": "File", "origin": "references", "warning": ""}


@pytest.mark.feature("T20")
def test_a_safetensors_file_of_a_folder_is_an_initial_model(train: Train, resnet18: State, tmp_path: Path) -> None:
    save_file(without_head(resnet18), tmp_path / "model.safetensors")
    ended = train(
        {"learningRate": 1e-9, "maxSteps": 1},
        initialModel={"uri": f"file://{tmp_path}/model.safetensors"},
        output={"uri": f"file://{tmp_path}/output"},
    )

    assert ended.code == 0, ended.message
    assert "it has no head, so the head is new" in ended.message["notes"][0]


@pytest.mark.feature("T20")
def test_class_names_beside_the_weights_keep_the_head(resnet18: State, tmp_path: Path) -> None:
    classes = [f"class {number}" for number in range(10)]
    torch.save({"state_dict": resnet18, "class_to_idx": {name: n for n, name in enumerate(classes)}}, tmp_path / "a.pt")
    after, notes = taken_over(tmp_path / "a.pt", classes=("class 3", "new"))

    assert torch.equal(after["fc.weight"][0], resnet18["fc.weight"][3])
    assert notes == [
        "Training starts from the file; the head is new for 1 of 2 classes, 1 had a class of the same name."
    ]


@pytest.mark.feature("T20")
def test_a_head_of_as_many_but_unknown_classes_is_new(resnet18: State, tmp_path: Path) -> None:
    torch.save(resnet18, tmp_path / "a.pt")
    after, notes = taken_over(tmp_path / "a.pt", classes=tuple("abcdefghij"))

    assert not torch.equal(after["fc.weight"], resnet18["fc.weight"])
    assert notes == ["Training starts from the file; its classes are not known, so the head is new."]


@pytest.mark.feature("T20")
def test_tensors_that_do_not_fit_are_named_with_counts(resnet18: State, tmp_path: Path) -> None:
    odd = dict(resnet18) | {"conv1.weight": torch.zeros(64, 1, 7, 7), "more.weight": torch.zeros(3)}
    del odd["layer1.0.bn1.weight"], odd["layer1.0.bn1.bias"]
    torch.save(odd, tmp_path / "a.pt")
    _, notes = taken_over(tmp_path / "a.pt")

    assert notes[1] == (
        "Of the file, 97 of 100 tensors of the body fit; conv1.weight has another shape; "
        "layer1.0.bn1.weight and 1 other are missing; 1 of the file belong to no layer of the preset."
    )


@pytest.mark.feature("T20")
@pytest.mark.parametrize(
    ("network", "preset"), [("resnet50", "resnet18"), ("resnet18", "resnet34"), ("mobilenet_v2", "resnet50")]
)
def test_another_networks_file_is_refused_with_the_nearest_preset(tmp_path: Path, network: str, preset: str) -> None:
    with torch.device("meta"):
        state = torchvision.models.get_model(network, weights=None).state_dict()
    torch.save(
        {name: torch.zeros(value.shape, dtype=torch.float16) for name, value in state.items()}, tmp_path / "a.pt"
    )
    error = refusal(lambda: taken_over(tmp_path / "a.pt", preset))

    assert error.reason == "PresetMismatch"
    nearest = network.replace("_", "-")
    assert f"the nearest preset is {nearest}, with 100 %: set preset to {nearest}" in str(error)


@pytest.mark.feature("T20")
def test_a_network_that_no_preset_has_is_refused_in_words(tmp_path: Path) -> None:
    torch.save(nn.Linear(3, 3).state_dict(), tmp_path / "a.pt")
    error = refusal(lambda: taken_over(tmp_path / "a.pt"))

    assert error.reason == "PresetMismatch"
    assert "it has 0 % of the values of the preset's body" in str(error)
    assert "no preset has this network" in str(error)


def test_the_nearest_of_nested_networks_is_the_whole_one() -> None:
    for network in ("resnet18", "resnet34", "resnet50", "resnet101", "resnext50"):
        state, _ = weights.shapes(network)
        assert weights.nearest_preset(state) == (network, 1.0)


def test_a_file_with_values_that_are_not_finite_is_refused(resnet18: State, tmp_path: Path) -> None:
    torch.save({**resnet18, "bn1.weight": torch.full((64,), torch.nan)}, tmp_path / "a.pt")
    error = refusal(lambda: taken_over(tmp_path / "a.pt"))

    assert (error.reason, "bn1.weight" in str(error)) == ("InvalidCheckpoint", True)


class Bomb:
    """Writes a file when it is unpickled by the plain way."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path(self.path).write_text, ("boom",))


def _no_weights(path: Path) -> Any:
    return {
        "whole-model": torchvision.models.mobilenet_v2(num_classes=2),
        "list": [torch.zeros(3)],
        "empty": {},
        "numbers-only": {"model": {"a": 1, "b": "c"}, "epoch": 3},
        "scalars-only": {"epoch": torch.tensor(3)},
        "code": {"model": {"a": torch.zeros(3)}, "hook": Bomb(path)},
        "numpy-object": {"model": {"a": torch.zeros(3)}, "best": np.float64(0.5)},
        "keys-are-numbers": {0: torch.zeros(3)},
    }


@pytest.mark.feature("T20")
@pytest.mark.parametrize("case", sorted(_no_weights(Path())))
def test_files_that_hold_no_state_dict_are_refused_in_words(tmp_path: Path, case: str) -> None:
    torch.save(_no_weights(tmp_path / "exploded")[case], tmp_path / "a.pt")
    error = refusal(lambda: read(tmp_path / "a.pt"))

    assert error.reason == "InvalidCheckpoint"
    assert str(error).startswith(f"{tmp_path}/a.pt holds ")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.feature("T20")
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html>login</html>", "it is a web page"),
        (b"\x89HDF\r\n\x1a\n" + bytes(64), "HDF5"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b'\x10\x00\x00\x00\x00\x00\x00\x00{"a": nonsense}', "damaged safetensors"),
        (b"\xff" * 7 + b'\x7f{"a": 1}', "damaged safetensors"),
        (b"PK\x03\x04" + bytes(64), "damaged or no checkpoint"),
        (b"\x80\x02}q\x00.", "damaged or no checkpoint"),
        (b"\x80\x02", "damaged or no checkpoint"),
    ],
)
def test_files_of_other_formats_are_refused_in_words(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    error = refusal(lambda: read(tmp_path / "a.pt"))

    assert error.reason == "InvalidCheckpoint"
    assert words in str(error)


def test_truncated_and_flipped_files_end_in_words(resnet18: State, tmp_path: Path) -> None:
    small = {name: value for name, value in resnet18.items() if value.numel() < 1000}
    torch.save(small, tmp_path / "a.pt")
    save_file(small, tmp_path / "b.safetensors")
    random = np.random.default_rng(0)
    for path in (tmp_path / "a.pt", tmp_path / "b.safetensors"):
        content = path.read_bytes()
        for _ in range(40):
            odd = bytearray(content[: random.integers(1, len(content))] if random.random() < 0.3 else content)
            for position in random.integers(0, min(len(odd), 4000), 5):
                odd[position] = random.integers(0, 256)
            path.write_bytes(odd)
            try:
                read(path)
            except BadConfig as error:
                assert error.reason == "InvalidCheckpoint"


@pytest.mark.parametrize("preset", NETWORKS)
def test_every_networks_own_names_survive_a_wrapper(preset: str) -> None:
    state, head = weights.shapes(preset)
    for prefix in ("", "module.", "model.backbone."):
        fit = weights.compare(state, head, prefixed(dict(state), prefix))
        assert (fit.is_complete, fit.unused, fit.share) == (True, 0, 1.0)


def model_folder_of(folder: Path, state: State, *, names: tuple[str, ...]) -> Path:
    """A model folder whose model.onnx is of a form of its own, as an int8 one is beside float weights."""
    folder.mkdir()
    torch.save(state, folder / "state.pt")
    (folder / "model.onnx").write_bytes(b"int8")
    (folder / "labels.txt").write_text("".join(f"class {number}\n" for number in range(10)), encoding="utf-8")
    (folder / "preprocess.json").write_text(json.dumps(Preprocess.for_size(224).document()), encoding="utf-8")
    about = {"preset": "resnet18"} if "state.pt" in names else {}
    document = json.loads(model_folder.metadata(folder, about))
    document["files"] = {name: digest for name, digest in document["files"].items() if name in names}
    (folder / "metadata.json").write_text(json.dumps(document), encoding="utf-8")
    return folder


@pytest.mark.feature("T20")
def test_a_model_folder_gives_its_float_weights_whatever_it_serves(resnet18: State, tmp_path: Path) -> None:
    model_folder_of(tmp_path / "model", resnet18, names=model_folder.FILES)
    start = start_from(f"file://{tmp_path}/model", tmp_path)

    assert (start.kind, start.preset, start.classes[0]) == ("Model", "resnet18", "class 0")
    assert torch.equal(start.weights["conv1.weight"], resnet18["conv1.weight"])


@pytest.mark.feature("T20")
@pytest.mark.parametrize("described", [True, False])
def test_a_folder_with_onnx_alone_is_refused_for_training(resnet18: State, tmp_path: Path, described: bool) -> None:
    folder = model_folder_of(tmp_path / "model", resnet18, names=SERVED_FILES)
    (folder / "state.pt").unlink()
    if not described:
        (folder / "metadata.json").unlink()
    error = refusal(lambda: start_from(f"file://{folder}", tmp_path))

    assert error.reason == "UnsupportedModel"
    assert "ONNX" in str(error) and "training cannot start" in str(error)
    assert model_folder.folder_kind(open_folder(f"file://{folder}", NO_ACCESS)) == "Onnx"


def start_from(uri: str, folder: Path) -> Initial:
    config = TrainConfig.model_validate({
        "kind": "train",
        "name": "a",
        "uid": "1",
        "datasets": [{"name": "a", "version": "1", "uri": "s3://a/b"}],
        "preset": "resnet18",
        "initialModel": {"uri": uri},
        "mlflow": {"experiment": "a", "registeredModel": "a"},
        "output": {"uri": f"file://{folder}/output"},
    })  # fmt: skip
    (folder / "scratch").mkdir()
    return load(config, lambda uri: open_folder(uri, NO_ACCESS), folder / "scratch")


@pytest.mark.feature("T21")
@pytest.mark.skipif(not BACKBONE.exists(), reason=f"there is no {BACKBONE}: set WEIGHTS to real MobileNetV2 weights")
def test_the_real_backbone_starts_mobilenet_v2_whole_with_a_new_head() -> None:
    after, notes = taken_over(BACKBONE, "mobilenet-v2", ("daisy", "rose"))
    real: State = torch.load(BACKBONE, weights_only=True)

    assert all(torch.equal(after[name], value) for name, value in real.items())
    assert {name for name in after if name not in real} == {"classifier.1.weight", "classifier.1.bias"}
    assert notes == ["Training starts from the file; it has no head, so the head is new."]
