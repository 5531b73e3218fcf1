"""How a training's status is read to people."""

from __future__ import annotations

from typing import Any

import pytest

from kubectl_bloomery.standing import standing


def job(status: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    return {"spec": spec} | ({"status": status} if status else {})


def condition(type_: str, status: str, message: str) -> dict[str, str]:
    return {"type": type_, "status": status, "reason": "Because", "message": message}


@pytest.mark.feature("O5")
def test_only_the_figures_that_there_are_are_shown() -> None:
    status = {"conditions": [condition("Running", "True", "")], "progress": {"stage": "evaluating", "epoch": 3}}

    assert standing(job(status)).line == "Running: evaluating: epoch 3"


@pytest.mark.feature("O5")
def test_a_suspended_job_says_so_and_has_not_ended() -> None:
    status = {
        "phase": "Suspended",
        "conditions": [condition("Running", "False", "spec.suspend is true."), condition("Suspended", "True", "…")],
    }
    stands = standing(job(status))

    assert stands.line == "Suspended: spec.suspend is true."
    assert not (stands.complete or stands.failed)


@pytest.mark.feature("O5")
def test_a_job_of_another_controller_names_it() -> None:
    assert standing(job(managedBy="kueue.x-k8s.io/multikueue")).line == (
        "Pending: spec.managedBy leaves it to kueue.x-k8s.io/multikueue."
    )


@pytest.mark.feature("O5")
def test_a_condition_that_is_false_is_no_end() -> None:
    status = {"conditions": [condition("Failed", "False", ""), condition("Running", "True", "")]}

    assert standing(job(status)).phase == "Running"
