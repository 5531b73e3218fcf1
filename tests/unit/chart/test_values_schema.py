"""The chart's values and their schema say the same, and the schema explains each of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import yaml

Schema: TypeAlias = dict[str, Any]

CHART = Path(__file__).resolve().parents[3] / "charts" / "bloomery"
SCHEMA: Schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
OPTIONAL = {"global", "gateway.infrastructure", "gateway.allowedRoutes.selector"}
"""Values that the schema knows and values.yaml leaves to its reader."""


def properties(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Yield path and schema of each value, groups too."""
    for name, value in schema.get("properties", {}).items():
        yield f"{path}{name}", value
        yield from properties(value, f"{path}{name}.")


def paths(values: dict[str, Any], path: str = "") -> Iterator[str]:
    """Yield the path of each value, groups too."""
    for name, value in values.items():
        yield f"{path}{name}"
        if isinstance(value, dict):
            yield from paths(value, f"{path}{name}.")


KNOWN = dict(properties(SCHEMA))


def test_the_schema_knows_the_values_that_there_are_and_no_others() -> None:
    free = tuple(
        f"{path}."
        for path, schema in KNOWN.items()
        if ("additionalProperties" in schema and "properties" not in schema) or "$ref" in schema
    )
    there = {path for path in paths(VALUES) if not path.startswith(free)}
    left_out = {path for path in KNOWN if path not in there}
    assert there <= KNOWN.keys()
    assert {path for path in left_out if not path.startswith("gateway.infrastructure.")} <= OPTIONAL


def test_every_value_is_explained() -> None:
    assert [path for path, schema in KNOWN.items() if not schema.get("description", "").endswith(".")] == []


def test_an_unused_key_is_refused_everywhere() -> None:
    open_groups = [
        path for path, s in KNOWN.items() if "properties" in s and s.get("additionalProperties") is not False
    ]
    assert open_groups == []
    assert SCHEMA["additionalProperties"] is False


@pytest.mark.parametrize("path", [path for path, schema in KNOWN.items() if "enum" in schema])
def test_a_choice_is_named_beside_its_default(path: str) -> None:
    value: Any = VALUES
    for name in path.split("."):
        value = value[name]
    assert value in KNOWN[path]["enum"]
