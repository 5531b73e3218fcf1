"""Fields that the operator hands on unread: the CRD and the trainer must agree on them, as nothing stands between."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from bloomery_operator.domain.spec_hash import PASS_THROUGH
from bloomery_trainer.config import Encoding, PrepareConfig, TrainConfig
from testing.crds import Schema, read_schema

KINDS = {"Dataset": ("datasets", PrepareConfig), "TrainingJob": ("trainingjobs", TrainConfig)}
QUANTITIES = {"maxBytes", "maxArchiveBytes"}
"""Quantities in the CRD, numbers of bytes for the trainer."""


def parts() -> Iterator[tuple[Schema, Schema]]:
    """Yield the CRD's and the trainer's schema of each field that is handed on."""
    for kind, names in PASS_THROUGH.items():
        plural, model = KINDS[kind]
        for name in names:
            yield read_schema(plural)["properties"][name], trainer_schema(model, name)


def trainer_schema(model: type[BaseModel], name: str) -> Schema:
    schema = model.model_json_schema(by_alias=True)
    part: Schema = schema["$defs"][schema["properties"][name]["$ref"].rpartition("/")[2]]
    return part


def fields() -> list[Any]:
    return [
        pytest.param(crd["properties"][name], trainer["properties"].get(name), id=name)
        for crd, trainer in parts()
        for name in crd["properties"]
        if name not in QUANTITIES
    ]


def test_both_have_the_same_fields() -> None:
    for crd, trainer in parts():
        assert set(crd["properties"]) == set(trainer["properties"])


@pytest.mark.parametrize(("crd", "trainer"), fields())
def test_trainer_knows_the_crds_words_and_defaults(crd: Schema, trainer: Schema) -> None:
    assert set(words(crd)) <= set(words(trainer))
    if "default" in crd:
        assert crd["default"] == trainer["default"]


@pytest.mark.parametrize(("crd", "trainer"), fields())
def test_trainer_accepts_all_that_the_crd_accepts(crd: Schema, trainer: Schema) -> None:
    """The trainer's bounds are as wide as the CRD's: what was applied must not fail in a pod.

    Whether a bound itself is allowed is left out: for the shares of a split, CEL rules say so.
    """
    low, high = bounds(crd)
    trainer_low, trainer_high = bounds(trainer)
    assert trainer_low <= low
    assert trainer_high >= high


def words(schema: Schema) -> Iterator[str]:
    for part in (schema, schema.get("items", {}), *schema.get("anyOf", [])):
        yield from part.get("enum", [])


def bounds(schema: Schema) -> tuple[float, float]:
    """Return the lowest and the highest value; in JSON schema, an exclusive bound is a number of its own."""
    low, high = float("-inf"), float("inf")
    for part in (schema, *schema.get("anyOf", [])):
        exclusive_low, exclusive_high = part.get("exclusiveMinimum"), part.get("exclusiveMaximum")
        low = max(low, part.get("minimum", low), low if exclusive_low in (None, True) else exclusive_low)
        high = min(high, part.get("maximum", high), high if exclusive_high in (None, True) else exclusive_high)
    return low, high


def test_encodings_of_the_crd_are_those_of_the_trainer() -> None:
    properties = read_schema("datasets")["properties"]
    encodings = [properties["source"]["properties"], properties["append"]["items"]["properties"]]

    assert [fields["encoding"]["enum"] for fields in encodings] == 2 * [list(get_args(Encoding))]
