"""Answers of the Open Inference Protocol v2."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.feature("S14")

SIDE = 32


def infer(server, *inputs, path="/v2/models/colours/infer", **more):
    return server.client.post(path, json={"inputs": list(inputs), **more})


def bytes_input(*data: str, shape=None):
    return {"name": "image", "datatype": "BYTES", "shape": shape or [len(data)], "data": list(data)}


def base64_picture(colour, tmp_path) -> str:
    path = tmp_path / "picture.png"
    Image.new("RGB", (40, 40), colour).save(path)
    return base64.b64encode(path.read_bytes()).decode()


def test_metadata_describes_inputs_and_outputs(server):
    answer = server.client.get("/v2/models/colours/versions/4").json()
    assert (answer["name"], answer["versions"], answer["platform"]) == ("colours", ["4"], "onnx_onnxruntime")
    assert {i["name"]: i["shape"] for i in answer["inputs"]} == {"image": [-1], "images": [-1, 3, SIDE, SIDE]}
    assert server.client.get("/v2/models/colours/ready").json()["ready"] is True
    for path in ("/v2", "/v2/"):
        assert server.client.get(path).json()["name"] == "bloomery"


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
        entry = {"name": "images", "datatype": "FP32", "shape": list(tensor.shape), "data": data}
        outputs = {o["name"]: o["data"] for o in infer(server, entry).json()["outputs"]}
        assert outputs["label"] == ["blue", "red"]
        assert np.reshape(outputs["scores"], (2, 3)).sum(axis=1) == pytest.approx([1, 1])


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"name": "pixels", "datatype": "FP32", "shape": [1], "data": [1]}, "no input 'pixels'"),
        ({"name": "images", "datatype": "FP32", "shape": [1, 3, 8, 8], "data": [1]}, "must be [N, 3, 32, 32]"),
        ({"name": "images", "datatype": "FP32", "shape": [1, 3, SIDE, SIDE], "data": [1]}, "not the numbers"),
        (bytes_input("%%%"), "not base64"),
        (bytes_input("aGVsbG8="), "not an image"),
        (bytes_input("aGVsbG8=", shape=[3]), "it has 1 images"),
        (bytes_input(shape=[0]), "at least one image"),
        (bytes_input(*["aGVsbG8="] * 11), "10 images at most, not 11"),
        ({"name": "images", "datatype": "FP32", "shape": [11, 3, SIDE, SIDE], "data": []}, "10 images at most, not 11"),
        ({"name": "images", "datatype": "FP32", "shape": [1, 3, SIDE, SIDE]}, "neither data nor the parameter"),
        ({"name": "images", "datatype": "FP32", "shape": [1, 3, SIDE, SIDE], "data": [1e39]}, "not the numbers"),
        ({"name": "images", "datatype": "FP32", "shape": [-1, 3, SIDE, SIDE], "data": [1]}, "inputs.0.shape.0"),
        ({"name": "image", "datatype": "BYTES", "data": ["aGVsbG8="]}, "inputs.0.shape: Field required"),
    ],
)
def test_wrong_input_is_answered_in_the_protocols_form(server, entry, words):
    answer = infer(server, entry)
    assert answer.status_code == 400
    assert words in answer.json()["error"]


def test_unknown_model_is_named_beside_the_one_that_is_here(server):
    answer = infer(server, bytes_input("x"), path="/v2/models/flowers/infer")
    assert answer.status_code == 404
    assert "'flowers'" in answer.json()["error"]
    assert "'colours'" in answer.json()["error"]


def test_too_many_numbers_are_refused_before_parsing(server):
    body = b'{"inputs": [{"name": "images", "shape": [1], "datatype": "FP32", "data": [' + b"0," * 2_000_000 + b"0]}]}"
    answer = server.client.post("/v2/models/colours/infer", content=body)
    assert answer.status_code == 413
    assert "more than the 30720 numbers of 10 images" in answer.json()["error"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"outputs": [{"name": "boxes"}]}, "no output 'boxes': there are 'scores' and 'label'"),
        ({"outputs": [{"name": "scores", "parameters": {"classification": "two"}}]}, "classification is 'two'"),
        ({"outputs": [{"name": "label", "parameters": {"classification": 2}}]}, "at 'scores'"),
        ({"outputs": [{"name": "scores", "parameters": {"binary_data": "yes"}}]}, "must be true or false"),
    ],
)
def test_impossible_output_is_refused_in_words(server, tmp_path, more, words):
    answer = infer(server, bytes_input(base64_picture((9, 200, 9), tmp_path)), **more)
    assert answer.status_code == 400
    assert words in answer.json()["error"]


@pytest.mark.parametrize(
    ("length", "tail", "words"),
    [
        ("9999999", b"", "but the body has"),
        ("-1", b"", "but the body has"),
        (None, b"", "neither data nor the parameter"),
        ({"binary_data_size": 9}, b"12", "is 9, but 2 bytes follow"),
        ({"binary_data_size": 6}, b"\xff\0\0\0ab", "end within an image"),
        ({"binary_data_size": 2}, b"ab", "end within an image"),
        ({}, b"ab", "neither data nor the parameter"),
    ],
)
def test_binary_data_that_do_not_fit_are_refused_in_words(server, length, tail, words):
    entry = {"name": "image", "datatype": "BYTES", "shape": [1]}
    if isinstance(length, dict):
        entry["parameters"] = length
    head = json.dumps({"inputs": [entry]}).encode()
    sent = str(len(head)) if length is None or isinstance(length, dict) else length
    headers = {"inference-header-content-length": sent}
    answer = server.client.post("/v2/models/colours/infer", content=head + tail, headers=headers)
    assert answer.status_code == 400
    assert words in answer.json()["error"]


def test_nulls_of_what_is_not_set_are_taken_as_left_out(server, tmp_path):
    # MLServer's documented requests.post(json=inference_request.dict()) sends all of these.
    entry = bytes_input(base64_picture((9, 200, 9), tmp_path)) | {"parameters": None}
    answer = infer(server, entry, id=None, parameters=None, outputs=None)
    assert {output["name"]: output["data"] for output in answer.json()["outputs"]}["label"] == ["green"]
    answer = infer(server, entry, outputs=[{"name": "label", "parameters": None}])
    assert [output["data"] for output in answer.json()["outputs"]] == [["green"]]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"inputs": []}', b"\xff"])
def test_body_that_is_no_request_is_refused_in_words(server, body):
    answer = server.client.post("/v2/models/colours/infer", content=body)
    assert answer.status_code == 400
    assert len(answer.json()["error"]) > 20


def test_one_image_may_be_the_whole_body(server, tmp_path):
    base64_picture((9, 200, 9), tmp_path)
    body = (tmp_path / "picture.png").read_bytes()
    headers = {"inference-header-content-length": "0"}
    answer = server.client.post("/v2/models/colours/infer", content=body, headers=headers)
    assert {output["name"]: output["data"] for output in answer.json()["outputs"]}["label"] == ["green"]


def test_request_without_a_key_is_refused_in_the_protocols_form(start_server, tmp_path):
    (tmp_path / "default").write_text("0" * 64)
    answer = start_server(api_keys_dir=str(tmp_path)).client.get("/v2/models/colours")
    assert answer.status_code == 401
    assert isinstance(answer.json()["error"], str)
