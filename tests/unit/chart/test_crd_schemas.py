"""Rules for every field of every kind, checked by walking the schemas."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import yaml

Schema: TypeAlias = dict[str, Any]

REPO = Path(__file__).resolve().parents[3]
CRDS = sorted((REPO / "crds").glob("*.yaml"))
CHART_COPIES = REPO / "charts" / "bloomery" / "files" / "crds"


def fields(schema: Schema, path: str) -> Iterator[tuple[str, Schema, bool]]:
    """Yield path, schema and whether people name the field, of everything below."""
    for name, field in schema.get("properties", {}).items():
        yield f"{path}.{name}", field, True
        yield from fields(field, f"{path}.{name}")
    for key, mark in (("items", "[]"), ("additionalProperties", "{}")):
        if key in schema:
            yield f"{path}{mark}", schema[key], False
            yield from fields(schema[key], f"{path}{mark}")


def all_fields() -> Iterator[tuple[str, Schema, bool]]:
    """Yield the same for the spec and the status of all kinds."""
    for file in CRDS:
        crd = yaml.safe_load(file.read_text(encoding="utf-8"))
        (version,) = crd["spec"]["versions"]
        parts = version["schema"]["openAPIV3Schema"]["properties"]
        for part in ("spec", "status"):
            yield from fields(parts[part], f"{crd['spec']['names']['kind']}.{part}")


FIELDS = {path: (schema, named) for path, schema, named in all_fields()}


def test_all_kinds_are_found() -> None:
    assert [file.stem for file in CRDS] == [
        "batchpredictions",
        "datasets",
        "inferenceservices",
        "retrainings",
        "trainingjobs",
    ]
    assert len(FIELDS) > 100


def test_every_list_map_and_string_has_a_maximum() -> None:
    assert [path for path, (schema, _) in FIELDS.items() if not has_maximum(schema)] == []


def has_maximum(schema: Schema) -> bool:
    """Whether a list, map or string says how long it may get; anything else may do without."""
    if schema.get("x-kubernetes-int-or-string") or schema.get("type") == "string":
        return "maxLength" in schema
    if schema["type"] == "array":
        return "maxItems" in schema
    return "additionalProperties" not in schema or "maxProperties" in schema


def test_every_number_that_people_set_has_both_bounds() -> None:
    numbers = {
        path: schema
        for path, (schema, _) in FIELDS.items()
        if ".spec." in path and schema.get("type") in {"integer", "number"}
    }
    assert [path for path, schema in numbers.items() if not {"minimum", "maximum"} <= schema.keys()] == []


def test_every_field_explains_itself_in_a_sentence() -> None:
    silent = [
        path
        for path, (schema, named) in FIELDS.items()
        if named and not schema.get("description", "").endswith((".", ")"))
    ]
    assert silent == []


def test_no_field_takes_just_anything_but_an_autoscalers_metrics() -> None:
    # Those are autoscaling/v2's, checked by the API server when the HorizontalPodAutoscaler is written.
    open_ended = [
        path
        for path, (schema, _) in FIELDS.items()
        if "x-kubernetes-preserve-unknown-fields" in schema
        or (schema.get("type") == "object" and not {"properties", "additionalProperties"} & schema.keys())
    ]
    assert open_ended == ["InferenceService.spec.variants[].autoscaling.metrics[]"]


def test_the_chart_carries_the_same_files() -> None:
    ours = {file.name: file.read_text(encoding="utf-8") for file in CRDS}
    assert {file.name: file.read_text(encoding="utf-8") for file in CHART_COPIES.glob("*.yaml")} == ours


def test_helm_keeps_the_kinds_when_the_release_goes() -> None:
    for file in CRDS:
        annotations = yaml.safe_load(file.read_text(encoding="utf-8"))["metadata"]["annotations"]
        assert annotations["helm.sh/resource-policy"] == "keep"
