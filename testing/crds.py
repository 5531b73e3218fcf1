"""Schemas of the kinds, as the CRDs in crds/ give them."""

from __future__ import annotations

from functools import cache
from typing import Any

import yaml

from dev.paths import ROOT

Schema = dict[str, Any]


@cache
def read_schema(plural: str, part: str = "spec") -> Schema:
    """Return the schema of a kind's spec or status; callers must not change it."""
    crd = yaml.safe_load((ROOT / "crds" / f"{plural}.yaml").read_text(encoding="utf-8"))
    (version,) = crd["spec"]["versions"]
    schema: Schema = version["schema"]["openAPIV3Schema"]["properties"][part]
    return schema


def apply_defaults(value: Any, schema: Schema) -> Any:
    """Return a value with the schema's defaults, as the API server stores it."""
    if isinstance(value, dict) and "properties" in schema:
        fields = schema["properties"]
        defaults = {name: field["default"] for name, field in fields.items() if "default" in field}
        return {
            name: apply_defaults(entry, fields[name]) if name in fields else entry
            for name, entry in (defaults | value).items()
        }
    if isinstance(value, list) and "items" in schema:
        return [apply_defaults(entry, schema["items"]) for entry in value]
    return value
