"""Names of models in MLflow's registry, which several namespaces may share."""

from __future__ import annotations

import pytest

from bloomery_operator.domain.registered_name import registered_name, rejected_name
from tests.unit.operator.samples import training_job

pytestmark = pytest.mark.feature("O7")


@pytest.mark.parametrize(
    ("field", "name"),
    [
        (None, "demo.flowers"),
        ("snacks", "demo.snacks"),
        ("snacks.v2", "demo.snacks.v2"),
        ("demo.snacks", "demo.snacks"),
        ("demo", "demo.demo"),
        ("Demo.snacks", "demo.Demo.snacks"),
    ],
)
def test_name_begins_with_the_namespace_once(field: str | None, name: str) -> None:
    job = training_job({"output": {"registeredModel": field} if field else {}})
    assert registered_name(job, namespaced=True) == name
    assert registered_name(job, namespaced=False) == (field or "flowers")


def rejection(name: str, *, namespaced: bool = True, evaluate_only: bool = False) -> str | None:
    job = training_job({"output": {"registeredModel": name}, "evaluateOnly": evaluate_only})
    verdict = rejected_name(job, namespaced=namespaced, is_namespace=lambda other: other in ("demo", "prod"))
    return verdict.reason if verdict is not None else None


def test_prefix_of_another_namespace_is_rejected() -> None:
    assert rejection("prod.flowers") == "ModelNameNotAllowed"
    assert rejection("demo.flowers") is None
    assert rejection("resnet.v2") is None
    assert rejection("prod") is None
    assert rejection("prod.flowers", namespaced=False) is None
    assert rejection("prod.flowers", evaluate_only=True) is None


def test_name_that_is_too_long_with_the_namespace_is_rejected() -> None:
    assert rejection("n" * 245) is None
    assert rejection("n" * 246) == "ModelNameNotAllowed"
    assert rejection("n" * 250, namespaced=False) is None
