"""``python -m tests.reference``: writes docs/reference.md, the API as the CRDs describe it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dev.paths import ROOT

PAGE = ROOT / "docs" / "reference.md"
CRDS = tuple(ROOT / "crds" / f"{plural}.yaml" for plural in ("datasets", "trainingjobs", "inferenceservices"))

Schema = Mapping[str, Any]

_HEAD = """\
<!-- Written by `make reference` from crds/*.yaml: change those. -->
# API reference

Group `bloomery.dev`, version `v1alpha1`. A field without a default may be left out unless it is required. What breaks
a limit or a check is refused by `kubectl apply`, with the sentence below. `kubectl explain --recursive` shows the same.

"""
_CONDITIONS = """\
## Conditions

Every kind has `status.conditions`, for `kubectl wait --for=condition=…` and for programs.
[Troubleshooting](troubleshooting.md) explains their reasons. A healthy object has no condition with the status False.

"""


def page() -> str:
    """Return the reference as Markdown."""
    crds = [yaml.safe_load(path.read_text(encoding="utf-8"))["spec"] for path in CRDS]
    toc = "\n".join(f"- [{crd['names']['kind']}](#{crd['names']['kind'].lower()})" for crd in crds)
    return "\n".join([_HEAD + toc, "- [Conditions](#conditions)\n", *map(_kind, crds), _conditions(crds)])


def _kind(crd: Schema) -> str:
    names, (version,) = crd["names"], crd["versions"]
    schema = version["schema"]["openAPIV3Schema"]
    kind = names["kind"]
    short = " ".join(f"`kubectl get {name}`" for name in names["shortNames"])
    lines = [f"## {kind}\n", f"{schema['description']}\n", f"{short} shows {_columns(version)}\n"]
    lines += _checks(schema["x-kubernetes-validations"])
    for part in ("spec", "status"):
        lines += [text for level in _levels(kind, part, schema["properties"][part]) for text in level]
    return "\n".join(lines)


def _columns(version: Schema) -> str:
    """Return the columns of kubectl get, as a sentence."""
    columns = version["additionalPrinterColumns"]
    always = [column["name"] for column in columns if not column.get("priority")]
    wide = [column["name"] for column in columns if column.get("priority")]
    return f"{', '.join(always)}; with `-o wide` also {', '.join(wide)}."


@dataclass(frozen=True)
class _Row:
    """A field as a line of a table."""

    name: str
    field: Schema
    told: str
    is_required: bool


def _levels(kind: str, path: str, schema: Schema) -> Iterator[list[str]]:
    """Yield the section of an object, then those of the objects in it."""
    told = [f"{_escaped(schema['description'])}\n"] if path in ("spec", "status") else []
    checks = [rule for rule in _rules(schema) if "oldSelf" not in rule["rule"]]
    yield [f"### {kind} {path}\n", *told, *_table(kind, path, schema), *_checks(checks)]
    for row in _rows(schema):
        inner = row.field.get("items", row.field)
        if "properties" in inner and row.name != "conditions":
            yield from _levels(kind, _path(path, row.name, row.field), inner)


def _rows(schema: Schema) -> Iterator[_Row]:
    """Yield an object's fields; one that only holds another field is a line with it."""
    fixed, required = _fixed(schema), schema.get("required", ())
    for name, field in schema["properties"].items():
        told = [field.get("description", ""), "*Can not be changed.*" if name in fixed else ""]
        inner = field.get("properties", {})
        only = next(iter(inner)) if len(inner) == 1 else ""
        if only and "properties" not in inner[only]:
            told.insert(1, inner[only].get("description", ""))
            told += [] if "default" in field or "default" not in inner[only] else ["Left out, it does not apply."]
            name, field = f"{name}.{only}", inner[only]
        yield _Row(name, field, " ".join(filter(None, told)), name.partition(".")[0] in required)


def _table(kind: str, path: str, schema: Schema) -> list[str]:
    has_defaults = path.startswith("spec")
    head = "field | type | default | |" if has_defaults else "field | type | |"
    lines = [f"| {head}", "|---" * head.count("|") + "|"]
    for row in _rows(schema):
        cells = [f"`{row.name}`", _type(kind, _path(path, row.name, row.field), row.field)]
        cells += [_default(row)] if has_defaults else []
        lines.append(f"| {' | '.join([*cells, _escaped(row.told)])} |")
    return [*lines, ""]


def _path(path: str, name: str, field: Schema) -> str:
    return f"{path}.{name}[]" if "items" in field else f"{path}.{name}"


def _default(row: _Row) -> str:
    if row.is_required:
        return "required"
    default = row.field.get("default")
    # An object's default is empty so that those of its fields hold.
    return "" if default in (None, {}) else f"`{yaml.safe_dump(default, default_flow_style=True).splitlines()[0]}`"


def _type(kind: str, path: str, field: Schema) -> str:
    """Return a field's type with its limits, and a link where it is described further on."""
    if path == "status.conditions[]":
        return "list of [conditions](#conditions)"
    if "items" in field:
        many = "".join(f" ({words})" for words in _range(field, "minItems", "maxItems", ""))
        return f"list{many} of {_type(kind, path, field['items'])}"
    if "properties" in field:
        return f"[object](#{_anchor(f'{kind} {path}')})"
    if isinstance(field.get("additionalProperties"), Mapping):
        return f"map of {_type(kind, path, field['additionalProperties'])}"
    if field.get("x-kubernetes-int-or-string"):
        return "integer or string"
    return ", ".join([field.get("type", "any"), *_limits(field)])


def _limits(field: Schema) -> list[str]:
    if "enum" in field:
        return ["one of " + ", ".join(f"`{value}`" for value in field["enum"])]
    limits = [field["format"]] if field.get("format") == "date-time" else []
    limits += _range(field, "minimum", "maximum", "")
    limits += _range(field, "minLength", "maxLength", "characters")
    return limits


def _range(field: Schema, least: str, most: str, unit: str) -> list[str]:
    """Return a range in words; a least length of one is what people expect."""
    low, high = field.get(least), field.get(most)
    low = None if low == 1 and least != "minimum" else low
    above = "more than " if field.get("exclusiveMinimum") else ""
    below = "less than " if field.get("exclusiveMaximum") else ""
    if low is None and high is None:
        return []
    if low is None:
        words = f"at most {high}"
    elif high is None:
        words = f"at least {low}"
    elif above or below:
        words = f"{above or 'from '}{low}, {below or 'at most '}{high}"
    else:
        words = f"{low} to {high}"
    return [f"{words} {unit}".rstrip()]


def _fixed(schema: Schema) -> frozenset[str]:
    """Return the fields that a rule keeps as they were created."""
    rules = " ".join(rule["rule"] for rule in schema.get("x-kubernetes-validations", ()))
    return frozenset(re.findall(r"self[.](\w+) == oldSelf[.]\1\b", rules))


def _rules(schema: Schema) -> list[Schema]:
    """Return the rules of an object, its fields, and the elements of its plain lists and maps."""
    found = list(schema.get("x-kubernetes-validations", ()))
    for name, field in schema["properties"].items():
        if len(field.get("properties", ())) > 1:
            continue
        only = next(iter(field.get("properties", {}).values()), field)
        found += [] if only is field else only.get("x-kubernetes-validations", ())
        found += field.get("x-kubernetes-validations", ())
        inner = field.get("additionalProperties")
        if isinstance(inner, Mapping):
            each = inner.get("x-kubernetes-validations", ())
            found += [{**rule, "message": f"each of {name} {rule['message']}"} for rule in each]
    return found


def _checks(rules: list[Schema]) -> list[str]:
    if not rules:
        return []
    return ["Checks:\n", *[f"- {_escaped(rule['message'])}" for rule in rules], ""]


def _conditions(crds: list[Schema]) -> str:
    lines = [_CONDITIONS + "| kind | |", "|---|---|"]
    fields: list[Schema] = []
    for crd in crds:
        conditions = crd["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]["conditions"]
        lines.append(f"| {crd['names']['kind']} | {conditions['description']} |")
        fields.append(conditions["items"])
    return "\n".join([*lines, "", *_table("", "status", fields[0])])


def _anchor(heading: str) -> str:
    """Return the address that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _escaped(text: str) -> str:
    """Keep Markdown from reading more into a description than it says."""
    return re.sub(r"[|<>]", lambda found: f"\\{found[0]}", text)


def main(page_file: Path = PAGE) -> None:
    """Write the page."""
    page_file.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
