"""Numbers of tensors, taken out of JSON before it is parsed."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bloomery_serving.api.json_numbers import NumbersError, take_out_numbers

pytestmark = pytest.mark.feature("S14")


def numbers(text: str) -> list[float]:
    """Return the one list of numbers that a text has."""
    shortened = take_out_numbers(text.encode())
    (array,) = shortened.arrays.values()
    assert list(shortened.arrays) == json.loads(shortened.text)["data"]
    return array.tolist()


@pytest.mark.parametrize("indent", [None, 4])
@pytest.mark.parametrize("shape", [(24,), (2, 3, 2, 2), (1, 24), (24, 1, 1, 1)])
def test_numbers_are_those_of_the_json_parser(shape: tuple[int, ...], indent: int | None) -> None:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    assert numbers(json.dumps({"data": values.tolist()}, indent=indent)) == values.ravel().tolist()


def test_a_million_numbers_in_many_pieces_are_all_there() -> None:
    values = np.arange(1_000_000, dtype=np.float32)
    assert np.array_equal(numbers(json.dumps({"data": values.tolist()})), values)


@pytest.mark.parametrize("text", ["[1e3, -2.5E-1, 0]", "[ 1000.0 ,\n\t-0.25\r\n, 0 ]"])
def test_every_form_of_a_number_is_read(text: str) -> None:
    assert numbers(f'{{"data" : {text}}}') == [1000, -0.25, 0]


@pytest.mark.parametrize("text", ["[1,,2]", "[,1]", "[1,]", "[1 2]", "[[],[1]]", "[--1]", "[1e]", "[.]", "[Na]"])
def test_what_is_no_list_of_numbers_is_refused(text: str) -> None:
    with pytest.raises(NumbersError, match="not numbers"):
        take_out_numbers(f'{{"data":{text}}}'.encode())


@pytest.mark.parametrize(
    "text", ['{"data":["aGVsbG8="]}', '{"data":[]}', '{"data":[1,"a"]}', '{"data":[1,2', '{"data":null}']
)
def test_everything_else_is_left_to_the_parser(text: str) -> None:
    shortened = take_out_numbers(text.encode())
    assert (shortened.text, shortened.arrays) == (text.encode(), {})


@pytest.mark.parametrize(
    "text", [r'{"id": "\"data\":[1,2]", "x": 1}', '{"shape":[1,3,224,224]}', '{"id":"data", "y":[1,2]}']
)
def test_members_of_other_names_and_texts_stay_as_they_are(text: str) -> None:
    assert take_out_numbers(text.encode()).text == text.encode()


def test_lists_may_be_nested_five_deep_and_no_deeper() -> None:
    assert numbers('{"data":[[[[[1]]]]]}') == [1]
    with pytest.raises(NumbersError, match="in more than 5 lists"):
        take_out_numbers(b'{"data":[[[[[[1]]]]]]}')
