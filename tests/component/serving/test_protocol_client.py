"""A public client of the Open Inference Protocol, tritonclient, in its binary form and in JSON."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from tests.component.serving.browser import gateway
from tests.component.serving.conftest import BLUE, GREEN, LABELS, RED, SIDE, Server, StartServer, picture

pytestmark = pytest.mark.feature("S14")

MODEL = "colours"


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(server.url.removeprefix("http://"), concurrency=4) as client:
        yield client


def files(*contents: bytes, binary: bool = True) -> InferInput:
    tensor = InferInput("image", [len(contents)], "BYTES")
    inputs = contents if binary else [base64.b64encode(content) for content in contents]
    tensor.set_data_from_numpy(np.array(inputs, np.object_), binary_data=binary)
    return tensor


def tensor(*colours: tuple[int, int, int], binary: bool = True) -> InferInput:
    array = np.stack([np.full((3, SIDE, SIDE), np.reshape(c, (3, 1, 1)), np.float32) / 255 for c in colours])
    inputs = InferInput("images", list(array.shape), "FP32")
    inputs.set_data_from_numpy(array.astype(np.float32), binary_data=binary)
    return inputs


def names(array: np.ndarray) -> list[str]:
    return [name if isinstance(name, str) else name.decode() for name in array.ravel()]


def test_it_finds_the_server_and_the_model_ready(client: InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready(MODEL, "4")
    assert not client.is_model_ready(MODEL, "5")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data", "classification"]


def test_it_reads_what_goes_in_and_what_comes_out(client: InferenceServerClient) -> None:
    metadata = client.get_model_metadata(MODEL, "4")
    assert metadata["inputs"] == [
        {"name": "image", "datatype": "BYTES", "shape": [-1]},
        {"name": "images", "datatype": "FP32", "shape": [-1, 3, SIDE, SIDE]},
    ]
    assert metadata["outputs"] == [
        {"name": "scores", "datatype": "FP32", "shape": [-1, 3]},
        {"name": "label", "datatype": "BYTES", "shape": [-1]},
    ]


@pytest.mark.parametrize("binary_in", [True, False], ids=["bytes in", "base64 in"])
@pytest.mark.parametrize("binary_out", [True, False], ids=["binary out", "JSON out"])
def test_images_go_in_and_scores_and_labels_come_out(
    client: InferenceServerClient, binary_in: bool, binary_out: bool
) -> None:
    inputs = files(picture(RED), picture(GREEN), picture(BLUE, kind="JPEG"), binary=binary_in)
    outputs = [InferRequestedOutput(name, binary_data=binary_out) for name in ("scores", "label")]
    result = client.infer(MODEL, [inputs], outputs=outputs, request_id="7", model_version="4")
    assert result.as_numpy("scores").shape == (3, 3)
    assert result.as_numpy("scores").sum(axis=1) == pytest.approx([1, 1, 1])
    assert names(result.as_numpy("label")) == ["red", "green", "blue"]
    response = result.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == ("7", MODEL, "4")


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
def test_request_that_names_no_outputs_gets_all(client: InferenceServerClient, binary: bool) -> None:
    result = client.infer(MODEL, [tensor(BLUE, RED, binary=binary)])
    assert names(result.as_numpy("label")) == ["blue", "red"]
    assert result.as_numpy("scores").dtype == np.float32


def test_images_and_their_tensors_score_alike(client: InferenceServerClient) -> None:
    as_files = client.infer(MODEL, [files(picture(RED), picture(BLUE))]).as_numpy("scores")
    assert client.infer(MODEL, [tensor(RED, BLUE)]).as_numpy("scores") == pytest.approx(as_files, abs=1e-5)


def test_only_requested_outputs_come(client: InferenceServerClient) -> None:
    result = client.infer(MODEL, [files(picture(RED))], outputs=[InferRequestedOutput("label")])
    assert [output["name"] for output in result.get_response()["outputs"]] == ["label"]
    assert result.as_numpy("scores") is None


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
def test_number_of_the_likeliest_classes_can_be_chosen(client: InferenceServerClient, binary: bool) -> None:
    outputs = InferRequestedOutput("scores", binary_data=binary, class_count=2)
    best = client.infer(MODEL, [files(picture(GREEN), picture(RED))], outputs=[outputs]).as_numpy("scores")
    assert best.shape == (2, 2)
    for row, label in zip(best, ("green", "red"), strict=True):
        score, index, name = names(row)[0].split(":")
        assert (LABELS[int(index)], name) == (label, label)
        assert float(score) > 0.9


def test_several_requests_at_once_are_each_answered(client: InferenceServerClient) -> None:
    colours = [RED, GREEN, BLUE] * 8
    waiting = [client.async_infer(MODEL, [files(picture(colour))]) for colour in colours]
    labels = [names(request.get_result().as_numpy("label"))[0] for request in waiting]
    assert labels == ["red", "green", "blue"] * 8


@pytest.mark.parametrize(
    ("model", "inputs", "words"),
    [
        ("flowers", files(picture(RED)), "this server has 'colours'"),
        (MODEL, files(picture(RED), b"notes"), "image 1 is not an image"),
        (MODEL, files(*[picture(RED)] * 11), "10 images at most, not 11"),
        (MODEL, tensor(*[RED] * 11), "10 images at most, not 11"),
        (MODEL, InferInput("pixels", [1], "FP32").set_data_from_numpy(np.zeros(1, np.float32)), "no input 'pixels'"),
    ],
    ids=["unknown model", "no image", "too many images", "too many tensors", "unknown input"],
)
def test_mistake_is_answered_in_words(
    client: InferenceServerClient, model: str, inputs: InferInput, words: str
) -> None:
    with pytest.raises(InferenceServerException, match=words):
        client.infer(model, [inputs])


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
def test_body_in_gzip_is_answered_as_any_other(client: InferenceServerClient, binary: bool) -> None:
    result = client.infer(MODEL, [tensor(RED, binary=binary)], request_compression_algorithm="gzip")
    assert names(result.as_numpy("label")) == ["red"]


def test_body_that_is_packed_in_another_form_is_refused_in_words(client: InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="packed with deflate is not read: send it as it is, or with"):
        client.infer(MODEL, [files(picture(RED))], request_compression_algorithm="deflate")


def test_it_works_with_a_key_and_under_a_prefix(start_server: StartServer, tmp_path: Path) -> None:
    (tmp_path / "default").write_text(hashlib.sha256(b"a key").hexdigest())
    guarded = start_server(api_keys_dir=str(tmp_path))
    with (
        gateway(guarded.url) as service,
        InferenceServerClient(service.removeprefix("http://")) as client,
    ):
        result = client.infer(MODEL, [files(picture(GREEN))], headers={"authorization": "Bearer a key"})
        assert names(result.as_numpy("label")) == ["green"]
        with pytest.raises(InferenceServerException, match="needs another key than the one sent"):
            client.infer(MODEL, [files(picture(GREEN))], headers={"authorization": "another"})
