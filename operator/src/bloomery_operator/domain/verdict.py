"""Verdicts: a reason and a sentence, given by the first of several checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from bloomery_operator.api.reasons import Reason, ReportedReason

Observation = TypeVar("Observation")


@dataclass(frozen=True)
class Verdict:
    """Result of a check: a reason and a sentence for people."""

    reason: Reason | ReportedReason
    message: str
    failed: bool = False
    """Whether the work has failed, rather than waits."""


def first_verdict(
    checks: Sequence[Callable[[Observation], Verdict | None]], observation: Observation
) -> Verdict | None:
    """Return the verdict of the first check that gives one, or None."""
    return next((verdict for check in checks if (verdict := check(observation)) is not None), None)
