"""What the Open Inference Protocol's requests may hold, before anything is computed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bloomery_serving.api.tensors import Expected, Question, read_request
from bloomery_serving.errors import RequestError

IMAGE = {"name": "image", "datatype": "BYTES", "shape": [1], "data": ["aGVsbG8="]}


def read(length: str | None = None, **fields: Any) -> Question:
    body = json.dumps({"inputs": [IMAGE]} | fields).encode()
    return read_request(body, length, Expected(images=10, side=32))


def refusal(length: str | None = None, **fields: Any) -> str:
    with pytest.raises(RequestError) as refused:
        read(length, **fields)
    assert refused.value.status == 400
    return refused.value.message


def test_each_output_may_be_asked_for_once() -> None:
    both = [{"name": "label"}, {"name": "scores"}]
    assert [output.name for output in read(outputs=both).outputs] == ["label", "scores"]
    said = "The output 'scores' is asked for twice; ask once for each."
    assert refusal(outputs=[*both, {"name": "scores"}]) == said


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
def test_lists_without_end_are_refused_before_they_fill_the_memory(fields: dict[str, Any], words: str) -> None:
    assert words in refusal(**fields)


@pytest.mark.parametrize("length", ["²", "٣", "+1", "1_0", " 1", "9" * 5_000, ""])
def test_a_length_that_is_no_number_is_told_in_words(length: str) -> None:
    assert "but the body has" in refusal(length)
