"""The command ``approve``."""

from __future__ import annotations

import pytest

from testing.samples import inference_service
from tests.component.plugin.conftest import Objects, Plugin

SHARES = [{"revision": "a", "weight": 10_000}]


@pytest.mark.feature("S21")
def test_step_that_waits_is_approved(bloomery: Plugin, objects: Objects) -> None:
    rollout = {"from": SHARES, "to": SHARES, "step": 1, "percent": 50, "since": "2026-05-01T11:00:00Z", "generation": 1}
    service = inference_service(rollout={"steps": [10, 50], "pauseAt": [50]})
    objects.create(service, {"rollout": rollout})

    ended = bloomery("approve", "flowers")
    missing = bloomery("approve", "tulips")

    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("50 percent is approved; the rollout of flowers goes on")
    annotations = objects.get("inferenceservice", "flowers")["metadata"]["annotations"]
    assert annotations["bloomery.dev/approved"] == "1/50/2026-05-01T11:00:00Z"
    assert missing.returncode == 1 and "There is no InferenceService" in missing.stderr
