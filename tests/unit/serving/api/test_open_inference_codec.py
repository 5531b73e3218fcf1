"""Limits of the Open Inference Protocol's requests, before anything is computed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bloomery_serving.api.errors import RequestError
from bloomery_serving.api.open_inference_codec import InferenceRequest, RequestLimits, decode_request

LIMITS = RequestLimits(images=10, side=32, bytes=1_000_000)
IMAGE = {"name": "image", "datatype": "BYTES", "shape": [1], "data": ["aGVsbG8="]}


def decode(length: str | None = None, **fields: Any) -> InferenceRequest:
    body = json.dumps({"inputs": [IMAGE]} | fields).encode()
    return decode_request(body, length, LIMITS)


def refusal(length: str | None = None, **fields: Any) -> str:
    with pytest.raises(RequestError) as refused:
        decode(length, **fields)
    assert refused.value.status == 400
    return refused.value.message


def test_each_output_may_be_requested_once() -> None:
    both = [{"name": "label"}, {"name": "scores"}]
    assert [output.name for output in decode(outputs=both).outputs] == ["label", "scores"]
    assert "'scores' is requested twice" in refusal(outputs=[*both, {"name": "scores"}])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"outputs": [{"name": "scores"}] * 5_000}, "outputs: List should have at most 8 items"),
        ({"outputs": [{}] * 5_000}, "outputs: List should have at most 8 items"),
        ({"inputs": [IMAGE] * 5_000}, "inputs: List should have at most 8 items"),
        ({"inputs": [IMAGE | {"shape": [-1] * 5_000}]}, "inputs.0.shape: List should have at most 8 items"),
    ],
    ids=["outputs", "outputs that are none", "inputs", "dimensions"],
)
def test_endless_lists_are_refused(fields: dict[str, Any], words: str) -> None:
    assert words in refusal(**fields)


def test_null_counts_as_left_out() -> None:
    outputs = [{"name": "scores", "parameters": {"binary_data": None, "classification": None}}]
    request = decode(outputs=outputs, parameters={"binary_data_output": None})
    assert [(output.binary, output.top_k) for output in request.outputs] == [(False, 0)]


@pytest.mark.parametrize("length", ["²", "٣", "+1", "1_0", " 1", "9" * 5_000, ""])
def test_length_that_is_no_number_is_refused(length: str) -> None:
    assert "but the body has" in refusal(length)
