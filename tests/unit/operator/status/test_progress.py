"""Changes of a service's status that only show how far its pods are."""

from __future__ import annotations

from typing import Any

import pytest

from bloomery_operator.api import Condition
from bloomery_operator.api.inferenceservice import InferenceServiceStatus, RolloutStatus, VariantStatus
from bloomery_operator.status.progress import is_only_progress
from tests.unit.operator.samples import NOW

VARIANT = VariantStatus(name="v1", revision="flowers--v1-1", weight=0, message="v1 has 0 of 1 pods ready.")


def condition(type_: str = "VariantsReady", **fields: Any) -> Condition:
    defaults = {"status": "False", "reason": "Deploying", "message": "v1 has 0 of 1 pods ready."}
    return Condition(type=type_, **(defaults | fields))


def status(**fields: Any) -> InferenceServiceStatus:
    defaults: dict[str, Any] = {"phase": "Deploying", "variants": (VARIANT,), "conditions": (condition(),)}
    return InferenceServiceStatus(**(defaults | fields))


def variant(**fields: Any) -> VariantStatus:
    return VARIANT.model_copy(update=fields)


ROLLOUT = RolloutStatus.model_validate(
    {"from": [], "to": [], "step": 0, "percent": 10, "since": NOW.isoformat(), "generation": 1}
)


@pytest.mark.parametrize(
    "fields",
    [
        {"replicas": 1, "ready_replicas": 1, "ready": "1/2", "scaled_replicas": 1},
        {"variants": (variant(replicas=1, ready=1, message=None, image="example/serving:1"),)},
        {"variants": (variant(digest="sha256:d", run_id="r"),)},
        {"started_at": NOW},
        {"conditions": (condition(message="Variant 'v2' has 0 of 1 pods ready."),)},
    ],
    ids=["numbers of pods", "a variant's pods", "digest", "time of the start", "message"],
)
def test_what_is_known_of_starting_pods_is_progress(fields: dict[str, Any]) -> None:
    assert is_only_progress(status(), status(**fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"phase": "Running"},
        {"phase": "Failed"},
        {"conditions": (condition(status="True"),)},
        {"conditions": (condition(reason="ImagePullBackOff"),)},
        {"conditions": (condition(), condition("RouteReady"))},
        {"conditions": (condition(observed_generation=2),)},
        {"observed_generation": 2},
        {"url": "http://gateway.example/demo/flowers"},
        {"traffic": "v1=100"},
        {"variants": (variant(weight=100),)},
        {"started_at": NOW, "stops_at": NOW},
        {"variants": (variant(revision="flowers--v1-2"),)},
        {"variants": ()},
        {"rollout": ROLLOUT},
    ],
    ids=lambda fields: "-".join(fields),
)
def test_every_other_change_is_more_than_progress(fields: dict[str, Any]) -> None:
    counted = {"replicas": 1} | fields
    assert not is_only_progress(status(), status(**counted))


@pytest.mark.parametrize("fields", [{"phase": "Degraded"}, {"phase": "Running"}, {"rollout": ROLLOUT}])
def test_a_service_that_answers_or_rolls_out_shows_each_change_at_once(fields: dict[str, Any]) -> None:
    assert not is_only_progress(status(**fields), status(replicas=1, **fields))


def test_an_equal_status_is_no_progress_whatever_kstatus_repeats() -> None:
    repeated = status(conditions=(condition(), condition("Reconciling", status="True")))
    assert not is_only_progress(repeated, status())
