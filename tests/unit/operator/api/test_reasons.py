"""Severity of condition reasons."""

from __future__ import annotations

import pytest

from bloomery_operator.api.reasons import Reason, Severity, severity_of


@pytest.mark.parametrize(
    ("reason", "severity"),
    [
        (Reason.SECRET_NOT_FOUND, Severity.WARNING),
        ("NotRegistered", Severity.WARNING),
        (Reason.PENDING, Severity.NORMAL),
        ("BadShard", Severity.NORMAL),
    ],
    ids=["warning", "warning as stored", "normal", "reported by a container"],
)
def test_severity_of_a_reason(reason: str, severity: Severity) -> None:
    assert severity_of(reason) is severity


def test_reason_is_its_word() -> None:
    assert Reason("RolloutAborted") is Reason.ROLLOUT_ABORTED
    assert f"{Reason.ROLLOUT_ABORTED}" == "RolloutAborted"
