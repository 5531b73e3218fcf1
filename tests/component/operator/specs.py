"""Random changes of specs, generated from the CRDs' schemas."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

from testing.crds import read_schema

Manifest = dict[str, Any]
_ODD: tuple[Any, ...] = (
    *(None, "", " ", "ä" * 300, "a: b", "../..", "$(x)", "美食/凉皮"),
    *(0, -1, 10**18, 0.5, True, [], {}, [None], {"": ""}),
)
_MATCHES = re.compile(r"(?<!!)(?:self|string\(self\))\.matches\('\^([^']+)\$'\)")
_EXACTLY_ONE = re.compile(r"\[(has\(self\.\w+\)(?:, has\(self\.\w+\))*)\]\.filter\(x, x\)\.size\(\) == 1")
# Surrogates are no text, and a NUL the API server takes, as a JSON document may hold one.
_CHARACTERS = st.characters(exclude_categories=["Cs"])
_GOOD = {"path": ("/a", "/shop/flowers", "/v1.2/~x_y")}
"""Values of fields whose rules are more than a pattern."""


def mutations(base: Manifest) -> st.SearchStrategy[Manifest]:
    """Give specs that differ from one that is good in one or a few places, most of them as their schema wants it."""
    places = [
        place
        for place in _places(read_schema(f"{base['kind'].lower()}s"))
        if place[0][0] not in ("managedBy", "queue", "suspend")
    ]
    one = st.sampled_from(places).flatmap(
        lambda place: st.tuples(st.just(place[0]), _mostly(_values(place[1], place[0][-1]), st.sampled_from(_ODD)))
    )
    return st.lists(one, min_size=1, max_size=3).map(lambda changes: _changed(base, changes))


def _mostly(likely: st.SearchStrategy[Any], rare: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    # Not one_of, which counts the same strategy once.
    return st.sampled_from([likely, likely, likely, rare]).flatmap(lambda strategy: strategy)


def _changed(base: Manifest, changes: list[tuple[tuple[str, ...], Any]]) -> Manifest:
    changed = copy.deepcopy(base)
    for path, value in changes:
        at = changed["spec"]
        for name in path[:-1]:
            step = at.get(name)
            if isinstance(step, list) and step and isinstance(step[0], dict):
                step = step[0]
            if not isinstance(step, dict):
                step = at[name] = {}
            at = step
        at[path[-1]] = value
    return changed


def _places(schema: Manifest, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Manifest]]:
    """Every field below a schema with its own schema; lists are entered at their first element."""
    for name, field in schema.get("properties", {}).items():
        yield (*path, name), field
        yield from _places(field.get("items", field), (*path, name))


def _values(schema: Manifest, name: str = "") -> st.SearchStrategy[Any]:
    """Give values that a structural schema allows, and most of its rules in CEL that speak of one field."""
    if schema.get("x-kubernetes-int-or-string"):
        return st.sampled_from([1, 100, "1", "50%", "2Gi", "100m"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema.get("type"):
        case "boolean":
            return st.booleans()
        case "integer":
            return st.integers(schema.get("minimum", -(2**31)), schema.get("maximum", 2**31))
        case "number":
            return st.floats(schema.get("minimum", -1e9), schema.get("maximum", 1e9), width=32)
        case "array":
            items = st.lists(_values(schema["items"]), min_size=schema.get("minItems", 0), max_size=3)
            return _mostly(items.map(_sharing), items) if "sum() == 100" in _rules(schema) else items
        case "object":
            return _objects(schema)
    return st.sampled_from(_GOOD[name]) if name in _GOOD else _texts(schema)


def _rules(schema: Manifest) -> str:
    return "\n".join(validation["rule"] for validation in schema.get("x-kubernetes-validations", []))


def _texts(schema: Manifest) -> st.SearchStrategy[str]:
    if "pattern" in schema:
        return _like(schema["pattern"])
    fewest, most = schema.get("minLength", 0), schema.get("maxLength", 40)
    patterns: list[str] = _MATCHES.findall(_rules(schema))
    if not patterns:
        return st.text(_CHARACTERS, min_size=fewest, max_size=min(most, 40))
    # Where there are several, each is for another beginning.
    likely: st.SearchStrategy[str] = st.sampled_from(patterns).flatmap(_like)
    return likely.filter(lambda text: fewest <= len(text) <= most)


def _like(pattern: str) -> st.SearchStrategy[str]:
    return st.from_regex(pattern, fullmatch=True, alphabet=_CHARACTERS)


def _sharing(variants: list[Manifest]) -> list[Manifest]:
    """Give variants names of their own, and weights that sum to 100; shadows get none."""
    taking = [variant for variant in variants if "mirrorPercent" not in variant] or variants[:1]
    weights = {id(variant): 0 for variant in variants} | {id(variant): 100 // len(taking) for variant in taking}
    weights[id(taking[0])] += 100 % len(taking)
    return [variant | {"name": f"v{n}", "weight": weights[id(variant)]} for n, variant in enumerate(variants)]


def _objects(schema: Manifest) -> st.SearchStrategy[Manifest]:
    fields = {name: _values(field, name) for name, field in schema.get("properties", {}).items()}
    if one := _EXACTLY_ONE.search(_rules(schema)):
        names = re.findall(r"self\.(\w+)", one.group(1))
        return _with_one_of(fields, names)
    if fields:
        required = {name: fields.pop(name) for name in schema.get("required", []) if name in fields}
        return st.fixed_dictionaries(required, optional=fields)
    values = schema.get("additionalProperties")
    strategy = _values(values) if isinstance(values, dict) else st.text(max_size=10)
    return st.dictionaries(st.text(max_size=10), strategy, max_size=2)


def _with_one_of(fields: dict[str, st.SearchStrategy[Any]], names: list[str]) -> st.SearchStrategy[Manifest]:
    """Give objects that have exactly one of some fields."""
    others = {name: strategy for name, strategy in fields.items() if name not in names}
    return st.sampled_from(names).flatmap(lambda name: st.fixed_dictionaries({name: fields[name]}, optional=others))
