"""Verdicts and conditions: what a check says, and how it is kept over time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeVar

from bloomery_operator.api import Condition

Observation = TypeVar("Observation")

MAX_MESSAGE = 2000
"""Longest condition message; a longer one is cut, as a status must stay small."""


@dataclass(frozen=True)
class Verdict:
    """What a check found: a CamelCase reason and a sentence for people."""

    reason: str
    message: str
    failed: bool = False
    """Whether this ends the work, rather than delays it."""


def first_verdict(
    checks: Sequence[Callable[[Observation], Verdict | None]], observation: Observation
) -> Verdict | None:
    """Return what the first check that speaks says, or None when all are content."""
    return next((verdict for check in checks if (verdict := check(observation)) is not None), None)


def condition(type_: str, status: bool | Literal["Unknown"], verdict: Verdict) -> Condition:
    """Return a condition that is not yet dated."""
    return Condition(
        type=type_,
        status=status if isinstance(status, str) else ("True" if status else "False"),
        reason=verdict.reason,
        message=verdict.message[:MAX_MESSAGE],
    )


def dated(
    conditions: Iterable[Condition], *, previous: Iterable[Condition], generation: int, now: datetime
) -> tuple[Condition, ...]:
    """Stamp conditions with the generation, and with the time at which their status last changed."""
    before = {c.type: c for c in previous}

    def stamp(new: Condition) -> Condition:
        old = before.get(new.type)
        unchanged = old is not None and old.status == new.status and old.last_transition_time
        return new.model_copy(
            update={
                "observed_generation": generation,
                "last_transition_time": old.last_transition_time if old and unchanged else now,
            }
        )

    return tuple(stamp(new) for new in conditions)
