"""CRDs and the operator's models have the same fields, so that no field is accepted and then ignored."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from bloomery_operator.api import BatchPrediction, Dataset, InferenceService, Retraining, TrainingJob
from bloomery_operator.domain.pod_annotations import ALLOWED_KEYS, REFUSED_PREFIXES
from bloomery_operator.domain.spec_hash import PASS_THROUGH
from testing.crds import read_schema

REPO = Path(__file__).resolve().parents[4]
KINDS = {
    "datasets": Dataset,
    "trainingjobs": TrainingJob,
    "retrainings": Retraining,
    "inferenceservices": InferenceService,
    "batchpredictions": BatchPrediction,
}

Fields = dict[str, Any]


@pytest.mark.parametrize("plural", KINDS)
@pytest.mark.parametrize("part", ["spec", "status"])
def test_crd_and_model_have_the_same_fields(plural: str, part: str) -> None:
    assert modelled(plural, part) == set(model_fields(plural, part))


@pytest.mark.parametrize("plural", KINDS)
def test_crd_and_model_have_the_same_defaults(plural: str) -> None:
    crd, model = crd_fields(plural, "spec"), model_fields(plural, "spec")
    for path, default in crd.items():
        if default is not None and default != {} and path in model:
            assert model[path] == default, path


def test_crds_and_manifests_refuse_the_same_annotations() -> None:
    for plural, path in (
        ("datasets", ("podTemplate",)),
        ("trainingjobs", ("podTemplate",)),
        ("batchpredictions", ("podTemplate",)),
        ("retrainings", ("template", "spec", "podTemplate")),
        ("inferenceservices", ("variants", "items", "podTemplate")),
    ):
        schema = read_schema(plural)
        for field in path:
            schema = schema["items"] if field == "items" else schema["properties"][field]
        (rule,) = schema["properties"]["annotations"]["x-kubernetes-validations"]
        quoted = re.findall(r"'([^']+)'", rule["rule"])
        assert quoted == [*ALLOWED_KEYS, *REFUSED_PREFIXES]


def test_operator_folder_is_no_package() -> None:
    assert not (REPO / "operator" / "__init__.py").exists()


def modelled(plural: str, part: str) -> set[str]:
    """Return the CRD's fields without those below a field that the operator hands on as it is."""
    handed_on = PASS_THROUGH.get(KINDS[plural].KIND, ()) if part == "spec" else ()
    if plural == "retrainings":
        handed_on = tuple(f"template.spec.{name}" for name in PASS_THROUGH[TrainingJob.KIND])
    return {path for path in crd_fields(plural, part) if not path.startswith(tuple(f"{name}." for name in handed_on))}


def crd_fields(plural: str, part: str) -> Fields:
    """Return the path and default of every field that the CRD has."""
    return dict(_crd_fields(read_schema(plural, part), ""))


def _crd_fields(schema: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    schema = schema.get("items", schema)
    for name, field in schema.get("properties", {}).items():
        yield f"{prefix}{name}", field.get("default")
        yield from _crd_fields(field, f"{prefix}{name}.")


def model_fields(plural: str, part: str) -> Fields:
    """Return the path and default of every field that the operator's model has."""
    return dict(_model_fields(KINDS[plural].model_fields[part].annotation, ""))


def _model_fields(annotation: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    model = _model_in(annotation)
    if model is None:
        return
    for field in model.model_fields.values():
        default = None if field.default is PydanticUndefined else field.default
        yield f"{prefix}{field.alias}", list(default) if isinstance(default, tuple) else default
        yield from _model_fields(field.annotation, f"{prefix}{field.alias}.")


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (tuple, Union) or get_args(annotation):
        return next((m for a in get_args(annotation) if (m := _model_in(a)) is not None), None)
    return None
