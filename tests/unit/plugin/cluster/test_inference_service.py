"""Variants and revisions of InferenceServices."""

from __future__ import annotations

from typing import Any

import pytest

from kubectl_bloomery.cluster.inference_service import approval, serving_revision
from kubectl_bloomery.errors import CommandError


def build_service(*variants: dict[str, Any]) -> dict[str, Any]:
    conditions = [{"type": "Ready", "message": "Its model is not there yet."}]
    return {"metadata": {"name": "colours"}, "status": {"variants": list(variants), "conditions": conditions}}


@pytest.mark.feature("O5")
def test_default_variant_has_most_traffic() -> None:
    colours = build_service(
        {"name": "small", "weight": 10, "ready": 1, "revision": "colours--small-1"},
        {"name": "large", "weight": 90, "ready": 1, "revision": "colours--large-1"},
        {"name": "new", "weight": 0, "ready": 0, "revision": "colours--new-1"},
    )

    assert serving_revision(colours, None) == "colours--large-1"
    assert serving_revision(colours, "small") == "colours--small-1"
    with pytest.raises(CommandError, match="The variant new of colours does not answer: Its model is not there yet"):
        serving_revision(colours, "new")


@pytest.mark.feature("S21")
def test_approval_names_the_step_that_waits() -> None:
    service = build_service() | {"spec": {"rollout": {"steps": [10, 50], "pauseAt": [50]}}}
    with pytest.raises(CommandError, match="colours has no rollout that could be approved: Its model is not there yet"):
        approval(service)
    service["status"]["rollout"] = {"percent": 10, "generation": 3, "since": "2026-05-01T11:00:00Z"}
    with pytest.raises(CommandError, match=r"10 percent has moved, and its pauseAt is \[50\]"):
        approval(service)
    service["status"]["rollout"]["percent"] = 50
    assert approval(service) == (50, "bloomery.dev/approved=3/50/2026-05-01T11:00:00Z")
