"""Generator of docs/reference.md: the API as the CRDs describe it (``python -m tools.reference``)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dev.paths import ROOT

PAGE = ROOT / "docs" / "reference.md"
_PLURALS = ("datasets", "trainingjobs", "retrainings", "inferenceservices", "batchpredictions")
CRDS = tuple(ROOT / "crds" / f"{plural}.yaml" for plural in _PLURALS)

Schema = Mapping[str, Any]

_TEMPLATE = "spec.template.spec"
"""Path of a TrainingJob's spec in another kind: it links to that spec."""

_HEAD = """\
<!-- Written by `make reference` from crds/*.yaml: change those. -->
# API reference

Group `bloomery.dev`, version `v1alpha1`. A field without a default is optional unless it is marked as required.
`kubectl apply` rejects an object that breaks a limit or a check, with the message below. `kubectl explain --recursive`
shows the same.

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
    # By the full name: on a cluster with KServe, `isvc` and `inferenceservices` may be its own.
    get = f"`kubectl get {names['plural']}.{crd['group']}`"
    lines = [f"## {kind}\n", f"{schema['description']}\n", f"{get} shows {_columns(version)}\n"]
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
    """A field, as a row of a table."""

    name: str
    field: Schema
    description: str
    is_required: bool


def _levels(kind: str, path: str, schema: Schema) -> Iterator[list[str]]:
    """Yield the section of an object, then the sections of its inner objects."""
    description = [f"{_escaped(schema['description'])}\n"] if path in ("spec", "status") else []
    checks = [rule for rule in _rules(schema) if "oldSelf" not in rule["rule"]]
    yield [f"### {kind} {path}\n", *description, *_table(kind, path, schema), *_checks(checks)]
    for row in _rows(schema):
        inner = row.field.get("items", row.field)
        inner_path = _path(path, row.name, row.field)
        if "properties" in inner and row.name != "conditions" and inner_path != _TEMPLATE:
            yield from _levels(kind, inner_path, inner)


def _rows(schema: Schema) -> Iterator[_Row]:
    """Yield an object's fields; a field with a single inner field shares its row."""
    fixed, required = _fixed(schema), schema.get("required", ())
    for name, field in schema["properties"].items():
        sentences = [field.get("description", ""), "*Cannot be changed.*" if name in fixed else ""]
        inner = field.get("properties", {})
        only = next(iter(inner)) if len(inner) == 1 else ""
        if only and "properties" not in inner[only]:
            sentences.insert(1, inner[only].get("description", ""))
            sentences += [] if "default" in field or "default" not in inner[only] else ["It is off if omitted."]
            name, field = f"{name}.{only}", inner[only]
        yield _Row(name, field, " ".join(filter(None, sentences)), name.partition(".")[0] in required)


def _table(kind: str, path: str, schema: Schema) -> list[str]:
    has_defaults = path.startswith("spec")
    head = "field | type | default | |" if has_defaults else "field | type | |"
    lines = [f"| {head}", "|---" * head.count("|") + "|"]
    for row in _rows(schema):
        cells = [f"`{row.name}`", _type(kind, _path(path, row.name, row.field), row.field)]
        cells += [_default(row)] if has_defaults else []
        lines.append(f"| {' | '.join([*cells, _escaped(row.description)])} |")
    return [*lines, ""]


def _path(path: str, name: str, field: Schema) -> str:
    return f"{path}.{name}[]" if "items" in field else f"{path}.{name}"


def _default(row: _Row) -> str:
    if row.is_required:
        return "required"
    default = row.field.get("default")
    # An object's default is empty, so that the defaults of its fields apply.
    return "" if default in (None, {}) else f"`{yaml.safe_dump(default, default_flow_style=True).splitlines()[0]}`"


def _type(kind: str, path: str, field: Schema) -> str:
    """Return a field's type with its limits, and a link to its own section if it has one."""
    if path == "status.conditions[]":
        return "list of [conditions](#conditions)"
    if path == _TEMPLATE:
        return "[spec of a TrainingJob](#trainingjob-spec)"
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
    """Return a range as text, without a minimum length of one, which is usual."""
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
    """Return the fields that a rule makes immutable."""
    rules = " ".join(rule["rule"] for rule in schema.get("x-kubernetes-validations", ()))
    return frozenset(re.findall(r"self[.](\w+) == oldSelf[.]\1\b", rules))


def _rules(schema: Schema) -> list[Schema]:
    """Return the rules of an object, its fields, and the elements of its plain lists and maps."""
    rules = list(schema.get("x-kubernetes-validations", ()))
    for name, field in schema["properties"].items():
        if len(field.get("properties", ())) > 1:
            continue
        only = next(iter(field.get("properties", {}).values()), field)
        rules += [] if only is field else only.get("x-kubernetes-validations", ())
        rules += field.get("x-kubernetes-validations", ())
        inner = field.get("additionalProperties")
        if isinstance(inner, Mapping):
            each = inner.get("x-kubernetes-validations", ())
            rules += [{**rule, "message": f"each of {name} {rule['message']}"} for rule in each]
    return rules


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
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _escaped(text: str) -> str:
    """Escape the characters of a description that Markdown would interpret."""
    return re.sub(r"[|<>]", lambda match: f"\\{match[0]}", text)


def main(page_file: Path = PAGE) -> None:
    """Write the page."""
    page_file.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
