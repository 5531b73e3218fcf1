"""docs/reference.md: what the CRDs say, all of it, and as they say it now."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tools import reference

TEXT = reference.PAGE.read_text(encoding="utf-8")


def test_the_page_is_that_of_the_crds_as_they_are() -> None:
    assert reference.page() == TEXT, "docs/reference.md is not that of crds/: make reference"


@pytest.mark.parametrize("path", reference.CRDS, ids=lambda path: path.stem)
def test_every_field_and_rejection_sentence_is_on_the_page(path: Any) -> None:
    crd = yaml.safe_load(path.read_text(encoding="utf-8"))
    (version,) = crd["spec"]["versions"]
    schema = version["schema"]["openAPIV3Schema"]
    for part in ("spec", "status"):
        for name, field in fields(schema["properties"][part]):
            assert any(form in TEXT for form in (f"`{name}`", f"`{name}.", f".{name}`")), name
            for rule in field.get("x-kubernetes-validations", ()):
                # The fields of a template are those of the kind that it is a template of.
                message = rule["message"].replace("spec.template.spec.", "spec.")
                assert "oldSelf" in rule["rule"] or rule["message"] in TEXT or message in TEXT


def test_a_field_that_is_final_is_marked() -> None:
    assert all(line.endswith("*Cannot be changed.* |") for line in TEXT.splitlines() if line.startswith("| `preset` |"))


def fields(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    schema = schema.get("items", schema)
    for name, field in schema.get("properties", {}).items():
        yield name, field
        yield from fields(field)
