"""The template of a Retraining: the spec of a TrainingJob, without the rules against changes."""

from __future__ import annotations

from typing import Any

import pytest

from testing.crds import read_schema
from tools.crd_template import SOURCE, TARGET, render

pytestmark = pytest.mark.feature("S23")


def template() -> dict[str, Any]:
    schema: dict[str, Any] = read_schema("retrainings")["properties"]["template"]["properties"]["spec"]
    return schema


def without_texts(schema: Any) -> Any:
    """Return a schema without descriptions and messages, which name other fields in a template."""
    if isinstance(schema, dict):
        return {key: without_texts(value) for key, value in schema.items() if key not in ("description", "message")}
    return [without_texts(item) for item in schema] if isinstance(schema, list) else schema


def test_the_template_is_up_to_date() -> None:
    target = TARGET.read_text(encoding="utf-8")
    assert render(SOURCE.read_text(encoding="utf-8"), target) == target


def test_template_has_all_rules_of_a_training_but_those_against_changes() -> None:
    spec = read_schema("trainingjobs")
    rules = [rule for rule in spec["x-kubernetes-validations"] if "oldSelf" not in rule["rule"]]
    assert 0 < len(rules) < len(spec["x-kubernetes-validations"])
    assert without_texts(template()) == without_texts(spec | {"x-kubernetes-validations": rules})


def test_messages_name_the_fields_of_the_template() -> None:
    for rule in template()["x-kubernetes-validations"]:
        assert "spec." not in rule["message"].replace("spec.template.spec.", "")


def test_a_sentence_that_is_gone_is_reported() -> None:
    source = SOURCE.read_text(encoding="utf-8").replace("Default: no test.", "Default: none.")
    with pytest.raises(ValueError, match="Default: no test"):
        render(source, TARGET.read_text(encoding="utf-8"))
