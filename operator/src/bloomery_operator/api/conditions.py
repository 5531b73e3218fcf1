"""Conditions, and the status fields that all kinds have."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator

from bloomery_operator.api.base import ApiModel, at_most, at_most_entries

_MAX_REASON_CHARACTERS = 128
_NOT_IN_A_REASON = re.compile(r"[^A-Za-z0-9_,:]|^[^A-Za-z]+|[,:]+$")


def _as_reason(value: Any) -> Any:
    """Return a word that a condition may have as its reason: a container may report any text."""
    if not isinstance(value, str):
        return value
    return _NOT_IN_A_REASON.sub("", _NOT_IN_A_REASON.sub("", value)[:_MAX_REASON_CHARACTERS]) or "Unknown"


class Condition(ApiModel):
    """A standard Kubernetes condition (meta/v1 Condition)."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: Annotated[str, BeforeValidator(_as_reason)]
    message: Annotated[str, at_most(32768)] = ""
    observed_generation: int | None = None
    last_transition_time: datetime | None = None

    @property
    def is_true(self) -> bool:
        """Whether the status is True."""
        return self.status == "True"


class CustomResourceStatus(ApiModel):
    """The status fields that all kinds have.

    Its texts, lists and maps are cut to the CRD's limits when it is parsed: this is the only place with the limits.
    """

    observed_generation: int | None = None
    conditions: Annotated[tuple[Condition, ...], at_most_entries(16)] = ()
    phase: str | None = None

    def condition(self, type_: str) -> Condition | None:
        """Return the condition of that type, if there is one."""
        return next((c for c in self.conditions if c.type == type_), None)

    def is_true(self, type_: str) -> bool:
        """Return whether there is a condition of that type with status True."""
        condition = self.condition(type_)
        return condition is not None and condition.is_true

    def within_limits(self) -> Self:
        """Return the status cut to the CRD's limits."""
        return self.model_validate(self.to_json())


class JobStatus(CustomResourceStatus):
    """The status fields of the kinds that run one Job, and are final once it has ended."""

    start_time: datetime | None = None
    completion_time: datetime | None = None
    restarts: int | None = None

    @property
    def is_finished(self) -> bool:
        """Whether the object has ended; a finished one is final."""
        return self.is_true("Complete") or self.is_true("Failed")
