"""Limits of a status: what a trainer or a server reports is cut to what the CRD allows."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from bloomery_operator.api import Condition, CustomResource, Dataset, InferenceService, TrainingJob
from testing.crds import read_schema
from tests.unit.operator.samples import Manifest, metadata

pytestmark = pytest.mark.feature("O6")

KINDS: dict[str, type[CustomResource]] = {
    "datasets": Dataset,
    "trainingjobs": TrainingJob,
    "inferenceservices": InferenceService,
}
SPECS: dict[str, Manifest] = {
    "datasets": {"source": {"uri": "s3://flowers"}},
    "trainingjobs": {"datasets": [{"name": "flowers"}], "preset": "resnet18"},
    "inferenceservices": {"variants": [{"name": "v1", "model": {"uri": "s3://a/b"}, "weight": 100}]},
}
LONG = "\ud800é" * 20_000
"""Longer than every limit, with half of a surrogate pair, which no UTF-8 text has."""


def oversized(schema: Manifest, number: int = 0) -> Any:
    """Return a value that exceeds every limit of a status."""
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type"):
        case "object" if "properties" in schema:
            fields = {name: oversized(field, number) for name, field in schema["properties"].items()}
            # The operator itself chooses the types of conditions.
            return fields | ({"type": f"Type{number}"} if "lastTransitionTime" in fields else {})
        case "object":
            return {f"key{entry}": oversized(schema["additionalProperties"]) for entry in range(200)}
        case "array":
            # The splits of a rollout are the operator's own.
            count = 1 if "rollout" in schema.get("description", "") else 200
            return [oversized(schema["items"], entry) for entry in range(count)]
        case "string" if schema.get("format") == "date-time":
            return "2026-05-01T10:00:00Z"
        case "string":
            return f"{LONG}{number}"
        case "boolean":
            return True
    return number + 1


@pytest.mark.parametrize("plural", KINDS)
def test_oversized_status_is_cut_to_what_the_crd_allows(plural: str) -> None:
    schema = read_schema(plural, "status")
    resource = KINDS[plural].parse({"metadata": metadata(), "spec": SPECS[plural], "status": oversized(schema)})
    status = resource.status.within_limits().to_json()
    assert _violations(status, schema) == []
    json.dumps(status, ensure_ascii=False).encode()


def test_oversized_status_is_refused_without_limits() -> None:
    schema = read_schema("datasets", "status")
    refused = {path.rpartition(".")[2] for path in _violations(oversized(schema), schema)}
    assert {"version", "uri", "report", "message", "reason", "name", "stage"} <= refused


def _violations(status: Manifest, schema: Manifest) -> list[str]:
    """Return the paths of the fields that the API server would reject."""
    return [error.json_path for error in jsonschema.Draft202012Validator(schema).iter_errors(status)]


def test_cut_class_names_stay_different() -> None:
    classes = [{"name": "c" * 300 + end} for end in ("a", "b")]
    status = Dataset.parse(
        {"metadata": metadata(), "spec": SPECS["datasets"], "status": {"classes": classes}}
    ).status.to_json()
    names = [entry["name"] for entry in status["classes"]]
    assert len(set(names)) == 2
    assert all(len(name) == 256 for name in names)


@pytest.mark.parametrize(
    ("reported", "reason"),
    [("TooFewImages", "TooFewImages"), ("no such class!", "nosuchclass"), ("3rd", "rd"), ("", "Unknown"), ("a:", "a")],
)
def test_reported_reason_becomes_a_word_that_a_condition_may_have(reported: str, reason: str) -> None:
    assert Condition(type="Ready", status="False", reason=reported).reason == reason
