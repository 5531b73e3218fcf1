"""The forms of a model folder: a training's own, or any ONNX classifier that names its classes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.component.serving.conftest import SIDE, START_SECONDS, StartServer, picture

pytestmark = pytest.mark.feature("S2")


def classifier(
    *, batch: str | int = "N", side: str | int = SIDE, softmax: bool = False, channels_last: bool = False
) -> onnx.ModelProto:
    """A model that says which colour is the strongest, in the forms that exporters give it."""
    shape = [batch, side, side, 3] if channels_last else [batch, 3, side, side]
    axes = [1, 2] if channels_last else [2, 3]
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=axes, keepdims=0),
        helper.make_node("Mul", ["mean", "scale"], ["logits"]),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["logits"], ["scores"], axis=1))
    output = "scores" if softmax else "logits"
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [batch, 3])],
        [numpy_helper.from_array(np.float32(4), "scale")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "any"
    folder.mkdir()
    onnx.save(classifier(), folder / "colours.onnx")
    (folder / "labels.txt").write_text("red\ngreen\nblue\n")
    return folder


def red_of(start_server: StartServer, folder: Path, **settings: str) -> dict[str, float]:
    server = start_server(model_uri=f"file://{folder}", **settings)
    answer = server.client.post("/predict", content=picture((255, 0, 0)), headers={"content-type": "image/png"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["label"] == "red"
    scores: dict[str, float] = answer.json()["scores"]
    assert sum(scores.values()) == pytest.approx(1, abs=1e-4)
    return scores


def start_failure(start_server: StartServer, folder: Path, **settings: str) -> tuple[str, str]:
    """Why a server does not start: the reason and the sentence."""
    server = start_server(ready=False, model_uri=f"file://{folder}", **settings)
    assert server.process.wait(START_SECONDS) == 1
    error = json.loads(server.termination_log.read_text())["error"]
    return error["reason"], error["message"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.txt", "red\r\ngreen\r\nblue\r\n"),
        ("classes.txt", "red\ngreen\nblue"),
        ("labels.json", '["red", "green", "blue"]'),
        ("labels.json", '{"0": "red", "1": "green", "2": "blue"}'),
    ],
)
def test_labels_file_is_all_that_a_model_of_elsewhere_needs(
    start_server: StartServer, folder: Path, name: str, content: str
) -> None:
    (folder / "labels.txt").unlink()
    (folder / name).write_bytes(content.encode())
    red_of(start_server, folder)


@pytest.mark.parametrize(
    "form", [{"batch": 1}, {"side": "side"}, {"batch": 1, "side": 48}], ids=["one at a time", "any size", "48 pixels"]
)
def test_forms_that_exporters_give_a_model_are_understood(
    start_server: StartServer, folder: Path, form: dict[str, str | int]
) -> None:
    onnx.save(classifier(**form), folder / "colours.onnx")  # type: ignore[arg-type]
    server = start_server(model_uri=f"file://{folder}")
    files = [("image", (f"{n}.png", picture(colour))) for n, colour in enumerate([(255, 0, 0), (0, 0, 255)])]
    answer = server.client.post("/predict", files=files).json()
    assert [prediction["label"] for prediction in answer["predictions"]] == ["red", "blue"]


def test_model_that_gives_probabilities_gets_no_second_softmax(start_server: StartServer, folder: Path) -> None:
    logits = red_of(start_server, folder)
    onnx.save(classifier(softmax=True), folder / "colours.onnx")
    assert red_of(start_server, folder) == pytest.approx(logits, abs=1e-5)


def test_weights_beside_the_model_come_along(start_server: StartServer, folder: Path) -> None:
    onnx.save(
        classifier(), folder / "colours.onnx", save_as_external_data=True, location="colours.data", size_threshold=0
    )
    assert (folder / "colours.data").exists()
    red_of(start_server, folder)


def test_digest_holds_such_a_folder_too(start_server: StartServer, folder: Path) -> None:
    server = start_server(model_uri=f"file://{folder}")
    digest = server.client.get("/v2/health/ready").headers["x-model-digest"]
    red_of(start_server, folder, model_digest=digest)
    (folder / "labels.txt").write_text("blue\ngreen\nred\n")
    reason, message = start_failure(start_server, folder, model_digest=digest)
    assert reason == "DigestMismatch"
    assert digest in message


@pytest.mark.parametrize(
    ("spoil", "reason", "words"),
    [
        (lambda f: (f / "labels.txt").unlink(), "NoLabels", "put labels.txt beside it"),
        (lambda f: (f / "labels.txt").write_text("red\ngreen\n"), "LabelsMismatch", "labels.txt names 2"),
        (lambda f: (f / "colours.onnx").unlink(), "NotAModel", "it has none, but labels.txt"),
        (lambda f: onnx.save(classifier(), f / "second.onnx"), "NotAModel", "colours.onnx, second.onnx"),
        (lambda f: (f / "colours.onnx").write_bytes(b"no model"), "ModelNotLoaded", "cannot be loaded"),
        (lambda f: onnx.save(classifier(channels_last=True), f / "colours.onnx"), "NotAClassifier", "[N, 3, "),
        (lambda f: (f / "labels.json").write_text("{") and (f / "labels.txt").unlink(), "BadLabels", "labels.json"),
        (lambda f: [path.unlink() for path in f.iterdir()], "ModelNotFound", "nothing lies there"),
    ],
    ids=["no labels", "too few labels", "no model", "two models", "no ONNX", "channels last", "bad JSON", "empty"],
)
def test_what_is_no_classifier_is_refused_in_words(
    start_server: StartServer, folder: Path, spoil: Callable[[Path], object], reason: str, words: str
) -> None:
    spoil(folder)
    actual, message = start_failure(start_server, folder)
    assert actual == reason
    assert words in message


def test_weights_outside_the_folder_are_refused(start_server: StartServer, folder: Path) -> None:
    onnx.save(
        classifier(), folder / "colours.onnx", save_as_external_data=True, location="colours.data", size_threshold=0
    )
    outside = folder.parent / "outside.data"
    (folder / "colours.data").rename(outside)
    model = onnx.load(folder / "colours.onnx", load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = "../outside.data"
    (folder / "colours.onnx").write_bytes(model.SerializeToString())
    reason, _ = start_failure(start_server, folder)
    assert reason == "ModelNotLoaded"
