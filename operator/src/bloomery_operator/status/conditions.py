"""Conditions of a status: built from verdicts, with transition times."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Literal, TypeVar

from bloomery_operator.api import BatchPrediction, Condition, Dataset, InferenceService, Retraining, TrainingJob
from bloomery_operator.api.conditions import CustomResourceStatus
from bloomery_operator.domain.verdict import Verdict

MAX_MESSAGE_CHARACTERS = 2000
"""A longer message is cut, as a status must stay small."""

RECONCILING = "Reconciling"
STALLED = "Stalled"
"""Conditions that kstatus defines, for Flux, Helm, Argo CD and others; they exist only while they are True."""
TRAINING_SUCCEEDED = "TrainingSucceeded"
"""Condition of a Retraining: the result of the last of its trainings."""
_FAILED_PHASE = "Failed"
_PHASES_IN_PROGRESS: Mapping[str, tuple[str, ...]] = {
    Dataset.KIND: ("Pending", "Preparing"),
    TrainingJob.KIND: ("Pending", "Queued", "Running"),
    Retraining.KIND: ("Pending",),
    InferenceService.KIND: ("Deploying",),
    BatchPrediction.KIND: ("Pending", "Queued", "Running"),
}

Status = TypeVar("Status", bound=CustomResourceStatus)


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


def with_kstatus_conditions(kind: str, status: Status, *, previous: CustomResourceStatus, now: datetime) -> Status:
    """Return the status with Reconciling or Stalled, which repeat the first condition, as its phase implies."""
    own = tuple(c for c in status.conditions if c.type not in (RECONCILING, STALLED))
    type_ = kstatus_condition_type(kind, status.phase)
    if type_ is None or not own:
        return status.model_copy(update={"conditions": own})
    repeated = with_transition_times(
        (own[0].model_copy(update={"type": type_, "status": "True"}),),
        previous=previous.conditions,
        generation=own[0].observed_generation or status.observed_generation or 1,
        now=now,
    )
    return status.model_copy(update={"conditions": (*own, *repeated)})


def kstatus_condition_type(kind: str, phase: str | None) -> str | None:
    """Return the condition of kstatus that a phase implies; None for an object that is as its spec describes."""
    if phase == _FAILED_PHASE:
        return STALLED
    return RECONCILING if phase in _PHASES_IN_PROGRESS[kind] else None
