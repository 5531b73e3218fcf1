"""Conditions that the kinds share which run one Job and are final once it has ended."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, TypeVar

from bloomery_operator.api import Condition
from bloomery_operator.api.conditions import CustomResourceStatus, JobStatus
from bloomery_operator.api.reasons import Reason
from bloomery_operator.domain.verdict import Verdict
from bloomery_operator.status.conditions import condition, with_transition_times
from bloomery_operator.status.workloads import JobView, pod_not_ready_reason, pods_refused

Status = TypeVar("Status", bound=CustomResourceStatus)


def not_started(job: JobView | None, pending: Verdict) -> Verdict | None:
    """Return what a Job's pods wait for; ``pending`` if nothing hinders them."""
    if job is None:
        return pending
    refused = pods_refused(job.rejection)
    if refused is not None:
        return refused
    for pod in job.pods:
        reason = pod_not_ready_reason(pod) if pod.phase == "Pending" or pod.node_lost else None
        if reason is not None:
            return reason
    first = job.current_pod
    return pending if first is None or first.phase == "Pending" else None


def queued(queue: str) -> Verdict:
    """Return what a Job in a queue waits for."""
    return Verdict(Reason.QUEUED, f"It waits for Kueue to admit it to queue {queue!r}.")


def suspension(verdict: Verdict, *, is_queued: bool) -> tuple[Condition, ...]:
    """Return the conditions of a suspended Job; one in a queue is not suspended in the sense of ``spec.suspend``."""
    running = condition("Running", False, verdict)
    return (running,) if is_queued else (running, condition("Suspended", True, verdict))


def resumption(status: CustomResourceStatus) -> tuple[Condition, ...]:
    """Return the condition of a suspension that is over, as batch/v1 does; none if there never was one."""
    if status.condition("Suspended") is None:
        return ()
    return (condition("Suspended", False, Verdict(Reason.RESUMED, "spec.suspend is false again.")),)


def _phase(conditions: Iterable[Condition], job: JobView | None) -> str:
    """Return the phase that conditions imply."""
    by_type = {c.type: c for c in conditions}
    end = next((type_ for type_ in ("Complete", "Failed") if type_ in by_type), None)
    if end is not None:
        return end
    running = by_type["Running"]
    if running.reason in (Reason.QUEUED, Reason.SUSPENDED) and job is not None and job.suspended:
        return running.reason
    return "Running" if running.is_true else "Pending"


def job_fields(
    previous: JobStatus, job: JobView | None, conditions: tuple[Condition, ...], *, generation: int, now: datetime
) -> dict[str, Any]:
    """Return the status fields that the kinds share.

    Args:
        previous: the status so far.
        job: the Job, if it exists.
        conditions: without times.
        generation: of the object.
        now: the time of conditions that change.
    """
    return {
        "observed_generation": generation,
        "phase": _phase(conditions, job),
        # batch/v1 sets a new start time on a resumed Job; the work began before.
        "start_time": previous.start_time or (job.start_time if job and job.has_begun else None),
        "restarts": job.failed_pods if job else None,
        "conditions": with_transition_times(conditions, previous=previous.conditions, generation=generation, now=now),
    }


def at_generation(status: Status, generation: int) -> Status:
    """Return a finished object's status for its newest generation: fields that may still change alter no result."""
    conditions = tuple(c.model_copy(update={"observed_generation": generation}) for c in status.conditions)
    return status.model_copy(update={"observed_generation": generation, "conditions": conditions})
