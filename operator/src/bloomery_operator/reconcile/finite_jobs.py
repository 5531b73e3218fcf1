"""Actions that the kinds share which run one Job: its suspension, the next look at it, and the
deletion of a finished object by its TTL.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from bloomery_operator.api import CustomResource
from bloomery_operator.api.conditions import JobStatus
from bloomery_operator.cluster.kinds import JOBS, ObjectKey, ResourceKind
from bloomery_operator.reconcile.context import Context
from bloomery_operator.reconcile.lookups import is_up_to_date
from bloomery_operator.status.workloads import JobView


async def set_suspension(context: Context, owner: CustomResource, job: JobView, *, suspend: bool) -> None:
    """Suspend or resume a Job, unless it is as it should be."""
    if job.suspended != suspend:
        key = ObjectKey(owner.metadata.namespace, job.name)
        await context.cluster.merge(JOBS, key, {"spec": {"suspend": suspend}})


def seconds_to_next_look(context: Context, status: JobStatus, job: JobView | None, *, is_waiting: bool) -> float | None:
    """Return the seconds until the object is looked at again without an event; None if events suffice.

    Args:
        context: of the reconcile.
        status: of the object, as it is now.
        job: the Job, if it exists.
        is_waiting: whether it waits for something that is not watched.
    """
    if status.is_finished:
        return None
    # No watch informs of a pod that cannot be created.
    if is_waiting or (job is not None and job.lacks_pods):
        return context.settings.retry_interval_seconds
    runs = status.phase == "Running" or (job is not None and job.has_running_pods)
    return context.settings.progress_poll_seconds if runs else None


async def expire(
    context: Context, kind: ResourceKind, resource: CustomResource, *, end: datetime, ttl: int
) -> float | None:
    """Delete a finished object whose TTL has passed; return the seconds that are left of it.

    Args:
        context: of the reconcile.
        kind: of the object.
        resource: the object.
        end: the time from which the TTL counts.
        ttl: ``ttlSecondsAfterFinished``.
    """
    left = (end + timedelta(seconds=ttl) - context.now()).total_seconds()
    if left > 0:
        return left
    metadata = resource.metadata
    if not await is_up_to_date(context, kind, resource):
        # Somebody may just have given it more time.
        return context.settings.retry_interval_seconds
    await context.cluster.delete(kind, ObjectKey(metadata.namespace, metadata.name), uid=metadata.uid)
    return None
