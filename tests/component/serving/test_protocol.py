"""What a client of the Open Inference Protocol v2 gets."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from PIL import Image

SIDE = 32


def infer(server, *inputs, path="/v2/models/colours/infer", **more):
    return server.client.post(path, json={"inputs": list(inputs), **more})


def bytes_input(*data: str, shape=None):
    return {"name": "image", "datatype": "BYTES", "shape": shape or [len(data)], "data": list(data)}


def base64_picture(colour, tmp_path) -> str:
    path = tmp_path / "picture.png"
    Image.new("RGB", (40, 40), colour).save(path)
    return base64.b64encode(path.read_bytes()).decode()


def test_metadata_tells_what_goes_in_and_what_comes_out(server):
    answer = server.client.get("/v2/models/colours/versions/4").json()
    assert (answer["name"], answer["versions"], answer["platform"]) == ("colours", ["4"], "onnx_onnxruntime")
    assert {i["name"]: i["shape"] for i in answer["inputs"]} == {"image": [-1], "images": [-1, 3, SIDE, SIDE]}
    assert server.client.get("/v2/models/colours/ready").json()["ready"] is True
    assert server.client.get("/v2").json()["name"] == "bloomery"


def test_images_as_bytes_are_classified(server, tmp_path):
    answer = infer(server, bytes_input(base64_picture((9, 200, 9), tmp_path)), id="7").json()
    outputs = {output["name"]: output for output in answer["outputs"]}
    assert outputs["label"]["data"] == ["green"]
    assert outputs["scores"]["shape"] == [1, 3]
    assert answer["id"] == "7"


def test_tensors_are_classified_flat_and_nested(server):
    tensor = np.zeros((2, 3, SIDE, SIDE), np.float32)
    tensor[0, 2], tensor[1, 0] = 1, 1
    for data in (tensor.ravel().tolist(), tensor.tolist()):
        given = {"name": "images", "datatype": "FP32", "shape": list(tensor.shape), "data": data}
        outputs = {o["name"]: o["data"] for o in infer(server, given).json()["outputs"]}
        assert outputs["label"] == ["blue", "red"]
        assert np.reshape(outputs["scores"], (2, 3)).sum(axis=1) == pytest.approx([1, 1])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"name": "pixels", "datatype": "FP32", "shape": [1], "data": [1]}, "no input 'pixels'"),
        ({"name": "images", "datatype": "FP32", "shape": [1, 3, 8, 8], "data": [1]}, "must be [N, 3, 32, 32]"),
        ({"name": "images", "datatype": "FP32", "shape": [1, 3, SIDE, SIDE], "data": [1]}, "not the numbers"),
        (bytes_input("%%%"), "not base64"),
        (bytes_input("aGVsbG8="), "not an image"),
        (bytes_input("aGVsbG8=", shape=[3]), "it has 1 images"),
    ],
)
def test_a_wrong_input_is_answered_in_the_protocols_form(server, given, words):
    answer = infer(server, given)
    assert answer.status_code == 400
    assert words in answer.json()["error"]


def test_an_unknown_model_is_named_beside_the_one_that_is_here(server):
    answer = infer(server, bytes_input("x"), path="/v2/models/flowers/infer")
    assert answer.status_code == 404
    assert "'flowers'" in answer.json()["error"]
    assert "'colours'" in answer.json()["error"]
