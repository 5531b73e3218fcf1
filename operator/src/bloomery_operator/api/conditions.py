"""Conditions, and the status fields that all kinds have."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from bloomery_operator.api.base import ApiModel


class Condition(ApiModel):
    """A standard Kubernetes condition (meta/v1 Condition)."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str = ""
    observed_generation: int | None = None
    last_transition_time: datetime | None = None

    @property
    def is_true(self) -> bool:
        """Whether the status is True."""
        return self.status == "True"


class CustomResourceStatus(ApiModel):
    """The status fields that all three kinds have."""

    observed_generation: int | None = None
    conditions: tuple[Condition, ...] = ()
    phase: str | None = None

    def condition(self, type_: str) -> Condition | None:
        """Return the condition of that type, if there is one."""
        return next((c for c in self.conditions if c.type == type_), None)

    def is_true(self, type_: str) -> bool:
        """Return whether there is a condition of that type with status True."""
        condition = self.condition(type_)
        return condition is not None and condition.is_true
