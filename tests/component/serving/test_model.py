"""Loading a model folder in ONNX Runtime: its providers, the names of its classes, and the refusals."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from bloomery_serving.engines.onnx_runtime import CPU, CUDA, OnnxRuntimeEngine
from bloomery_serving.errors import ModelError
from bloomery_serving.model import Model
from tests.component.serving.conftest import SIDE, write_model

pytestmark = pytest.mark.feature("S2")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model(tmp_path)
    return tmp_path


def load(folder: Path) -> Model:
    return Model.load(folder, digest="", threads=1)


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return the calls, in their order, where ONNX Runtime is the one with CUDA."""
    done: list[object] = []
    real = onnxruntime.InferenceSession

    def open_session(*arguments: object, providers: list[object]) -> onnxruntime.InferenceSession:
        done.append(providers)
        return real(*arguments, providers=[CPU])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: done.append("CUDA's libraries"))
    monkeypatch.setattr(onnxruntime, "InferenceSession", open_session)
    return done


@pytest.mark.feature("S16")
def test_libraries_of_cuda_are_loaded_before_the_model(sessions: list[object], folder: Path) -> None:
    load(folder)
    assert sessions == ["CUDA's libraries", [(CUDA, {"cudnn_conv_algo_search": "HEURISTIC"}), CPU]]


@pytest.mark.feature("S16")
def test_gpu_that_cannot_be_used_is_logged(
    sessions: list[object], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    load(folder)
    assert "the model is computed by CPUExecutionProvider" in caplog.text
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "none can be used here, so the processor answers" in warning


@pytest.mark.feature("S16")
def test_gpu_is_warmed_up_for_every_size_of_batch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    real = OnnxRuntimeEngine.run

    def run(engine: OnnxRuntimeEngine, batch: np.ndarray) -> np.ndarray:
        sizes.append(len(batch))
        return real(engine, batch)

    monkeypatch.setattr(OnnxRuntimeEngine, "on_gpu", True)
    monkeypatch.setattr(OnnxRuntimeEngine, "run", run)
    assert {1, load(folder).best_batch} <= set(sizes)


def test_without_cuda_nothing_is_warned_of(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    load(folder)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_classes_of_one_name_differ_by_their_number(tmp_path: Path) -> None:
    write_model(tmp_path, labels=("crane", "tench", "crane"))
    assert load(tmp_path).labels == ("crane (0)", "tench", "crane (2)")
    write_model(tmp_path, labels=("crane", "crane (0)", "crane"))
    assert len(set(load(tmp_path).labels)) == 3


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"mean": None, "crop": None}, ["crop: Field required", "mean: Field required"]),
        ({"std": [1, 0, 1]}, ["std.1: Input should be greater than 0"]),
        ({"crop": SIDE + 1}, ["crop is 33 and resize 32"]),
    ],
)
def test_wrong_preprocess_json_is_refused_by_its_fields(folder: Path, wrong: dict[str, object], words: str) -> None:
    path = folder / "preprocess.json"
    fields = json.loads(path.read_text()) | wrong
    path.write_text(json.dumps({name: value for name, value in fields.items() if value is not None}))
    with pytest.raises(ModelError) as refused:
        load(folder)
    assert refused.value.reason == "BadPreprocess"
    assert all(word in str(refused.value) for word in words), refused.value


def test_preprocess_json_that_notepad_saved_is_read(folder: Path) -> None:
    path = folder / "preprocess.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load(folder).preprocess.crop == SIDE


def test_model_that_ends_in_a_pooling_is_a_classifier_too(folder: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("GlobalAveragePool", ["images"], ["pooled"])],
        "pooled",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("pooled", TensorProto.FLOAT, ["N", 3, 1, 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    scores = np.stack([image.scores for image in load(folder).predict([np.zeros((3, SIDE, SIDE), np.float32)] * 2)])
    assert scores == pytest.approx(np.full((2, 3), 1 / 3))
