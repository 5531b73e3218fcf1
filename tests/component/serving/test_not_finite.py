"""Models that give NaN, at the start and for single images and tensors: JSON has no NaN."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bloomery_serving.batcher import MAX_FAILED_BATCHES
from tests.component.serving.conftest import GREEN, RED, SIDE, StartServer, picture, write_model
from tests.component.serving.test_life import refused

pytestmark = pytest.mark.feature("S2")

INFER = "/v2/models/colours/infer"


def write_changed_model(folder: Path, model: onnx.ModelProto) -> Path:
    """Write a folder of another origin, whose files have no digests."""
    write_model(folder)
    (folder / "metadata.json").unlink()
    onnx.save(model, folder / "model.onnx")
    return folder


def nan_for_red_images() -> onnx.ModelProto:
    """A model of the mean colour, that divides by zero where there is more than 0.7 of red, and overflows early."""
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("Gemm", ["mean", "red"], ["amount"]),
        helper.make_node("Sub", ["limit", "amount"], ["rest"]),
        helper.make_node("Log", ["rest"], ["logarithm"]),  # NaN of a negative number
        helper.make_node("Mul", ["logarithm", "zero"], ["nothing"]),
        helper.make_node("Add", ["mean", "nothing"], ["logits"]),
    ]
    constants = {"red": np.array([[1], [0], [0]]), "limit": np.array([[0.7]]), "zero": np.array([[0.0]])}
    graph = helper.make_graph(
        nodes,
        "nan-for-red",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def test_model_with_a_nan_weight_does_not_start(start_server: StartServer, tmp_path: Path) -> None:
    model = onnx.load(_plain(tmp_path))
    for weights in model.graph.initializer:
        if weights.name == "weights":
            values = numpy_helper.to_array(weights).copy()
            values[0, 0] = np.nan
            weights.CopyFrom(numpy_helper.from_array(values, "weights"))
    folder = write_changed_model(tmp_path, model)
    error = refused(start_server, model_uri=f"file://{folder}")
    assert (error["reason"], "NaN" in error["message"]) == ("ModelNotRunnable", True)


def test_nan_for_an_image_or_a_tensor_is_an_error(start_server: StartServer, tmp_path: Path) -> None:
    """Only the image's error counts against the server's health."""
    server = start_server(model_uri=f"file://{write_changed_model(tmp_path, nan_for_red_images())}")
    red = np.zeros((1, 3, SIDE, SIDE), np.float32)
    red[:, 0] = 1
    tensor = {"name": "images", "datatype": "FP32", "shape": list(red.shape), "data": red.ravel().tolist()}
    for _ in range(2 * MAX_FAILED_BATCHES):
        answer = server.client.post(INFER, json={"inputs": [tensor]})
        assert (answer.status_code, "NaN" in answer.json()["error"]) == (422, True)
    assert server.client.get("/v2/health/live").status_code == 200
    good = server.client.post("/predict", content=picture(GREEN))
    assert (good.status_code, good.json()["label"]) == (200, "green")
    for _ in range(MAX_FAILED_BATCHES):
        answer = server.client.post("/predict", content=picture(RED))
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "ResultNotFinite")
    assert server.client.get("/v2/health/live").status_code == 503
    assert server.client.post("/predict", content=picture(GREEN)).status_code == 200
    assert server.client.get("/v2/health/live").status_code == 200


def test_tensor_that_overflows_is_no_failure_of_the_server(start_server: StartServer) -> None:
    server = start_server()
    data = [3e38] * (3 * SIDE * SIDE)
    tensor = {"name": "images", "datatype": "FP32", "shape": [1, 3, SIDE, SIDE], "data": data}
    answer = server.client.post(INFER, json={"inputs": [tensor]})
    assert (answer.status_code, "tensor 0" in answer.json()["error"]) == (422, True)


@pytest.mark.feature("S14")
@pytest.mark.parametrize("known", [True, False])
def test_metadata_say_whether_the_preprocessing_is_assumed(
    start_server: StartServer, tmp_path: Path, known: bool
) -> None:
    folder = write_changed_model(tmp_path, onnx.load(_plain(tmp_path)))
    if not known:
        (folder / "preprocess.json").unlink()
    server = start_server(model_uri=f"file://{folder}")
    parameters = server.client.get("/v2/models/colours").json()["parameters"]
    assert parameters["preprocess_source"].startswith("preprocess.json" if known else "assumed")
    assert parameters["preprocess"]["mean"] == ([0, 0, 0] if known else [0.485, 0.456, 0.406])
    assert ("preprocessing is assumed" in server.log.read_text()) is not known
    json.dumps(parameters, allow_nan=False)


def _plain(folder: Path) -> Path:
    write_model(folder)
    return folder / "model.onnx"
