"""Conditions of a status: built from verdicts, with transition times."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Literal

from bloomery_operator.api import Condition
from bloomery_operator.domain.verdict import Verdict

MAX_MESSAGE_CHARACTERS = 2000
"""A longer message is cut, as a status must stay small."""


def condition(type_: str, status: bool | Literal["Unknown"], verdict: Verdict) -> Condition:
    """Return a condition without a transition time."""
    return Condition(
        type=type_,
        status=status if isinstance(status, str) else ("True" if status else "False"),
        reason=str(verdict.reason),
        message=verdict.message[:MAX_MESSAGE_CHARACTERS],
    )


def with_transition_times(
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
