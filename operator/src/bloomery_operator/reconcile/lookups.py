"""Reads that reconciles share: custom resources, Jobs with their pods, and Secrets."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from bloomery_operator.api import CustomResource, InvalidResource
from bloomery_operator.api.base import Manifest
from bloomery_operator.api.reasons import Reason
from bloomery_operator.cluster.kinds import JOBS, PODS, SECRETS, ObjectKey, ResourceKind
from bloomery_operator.domain.names import job_name
from bloomery_operator.domain.ownership import controller_uid
from bloomery_operator.domain.timestamps import read_time
from bloomery_operator.domain.verdict import Verdict
from bloomery_operator.reconcile.blocked import Blocked
from bloomery_operator.reconcile.context import Context
from bloomery_operator.status.workloads import JobView, PodView

Resource = TypeVar("Resource", bound=CustomResource)

_CONTROLLER_UID = "batch.kubernetes.io/controller-uid"
"""Label that the Job controller sets on its pods."""
_REJECTION_INTERVALS = 3
"""Retry intervals between two reads of the Events of a Job without pods."""
_NAMED_ENTRIES = 5
"""Entries of a Secret that a message names."""


def read_resource(context: Context, kind: ResourceKind, model: type[Resource], key: ObjectKey) -> Resource | None:
    """Return the custom resource; None if it is gone or being deleted.

    Raises:
        InvalidResource: it cannot be read.
    """
    manifest = context.object_cache.get(kind, key)
    if manifest is None or "deletionTimestamp" in manifest["metadata"]:
        return None
    return model.parse(manifest)


def find_resource(context: Context, kind: ResourceKind, model: type[Resource], key: ObjectKey) -> Resource | None:
    """Return a custom resource that another one refers to; None also if it cannot be read."""
    try:
        return read_resource(context, kind, model, key)
    except InvalidResource:
        return None


def has_termination_result(job: JobView) -> bool:
    """Return whether the pod that ended a Job has left its result or its error."""
    return bool(job.termination_result)


async def is_up_to_date(context: Context, kind: ResourceKind, resource: CustomResource) -> bool:
    """Return whether the live object is still the one that was read: before what must not come of an old spec."""
    live = await context.cluster.get(kind, ObjectKey(resource.metadata.namespace, resource.metadata.name))
    version = (resource.metadata.uid, resource.metadata.resource_version)
    return live is not None and (live["metadata"]["uid"], live["metadata"]["resourceVersion"]) == version


async def observe_job(
    context: Context,
    owner: CustomResource,
    command: str,
    *,
    needs_result: bool = True,
    has_result: Callable[[JobView], bool] = has_termination_result,
) -> JobView | None:
    """Return the owner's Job for a command of the trainer, or for a batch prediction, with its pods.

    Args:
        context: the dependencies.
        owner: the custom resource.
        command: the end of the Job's name.
        needs_result: whether a finished Job's result is still to be read.
        has_result: whether the pods of a finished Job have left all of it.
    """
    namespace, name = owner.metadata.namespace, job_name(owner, command)
    owned = context.object_cache.controlled_by(JOBS, namespace, owner.metadata.uid)
    jobs = [job for job in owned if job["metadata"]["name"] == name]
    if not jobs:
        return None
    uid = jobs[0]["metadata"]["uid"]
    job = JobView.of(jobs[0], context.object_cache.controlled_by(PODS, namespace, uid))
    if job.lacks_pods:
        return await _with_rejection(context, namespace, job)
    if not job.is_finished or has_result(job) or not needs_result or uid in context.lost_results:
        return job
    # The event of the Job's end may overtake its pod's termination message, and a finished job is final: read live.
    pods = await context.cluster.list(PODS, namespace=namespace, selector=f"{_CONTROLLER_UID}={uid}")
    # Anyone may give a pod of theirs that label.
    job = JobView.of(jobs[0], (pod for pod in pods.items if controller_uid(pod) == uid))
    if not has_result(job):
        context.lost_results[uid] = True
    return job


async def _with_rejection(context: Context, namespace: str, job: JobView) -> JobView:
    """Return a Job that has been without a pod for a while with the reason why none can be created."""
    interval = context.settings.retry_interval_seconds
    if job.created is None or (context.now() - job.created).total_seconds() < interval:
        return job
    rejection = await context.pod_rejections.newest(
        context.cluster, namespace, job.uid, max_age_seconds=_REJECTION_INTERVALS * interval
    )
    if rejection is None or any(rejection.time < created for pod in job.pods if (created := read_time(pod.created))):
        return job
    return replace(job, rejection=rejection.message)


async def read_job_progress(context: Context, job: JobView | None) -> Mapping[str, Any] | None:
    """Return the progress of a Job's running pod."""
    pod = job.current_pod if job and not job.is_finished else None
    return await _read_pod_progress(context, pod)


async def read_shared_progress(context: Context, job: JobView | None) -> Mapping[str, Any] | None:
    """Return the progress of a Job of whose pods each reports for all: that of one that runs."""
    pods = job.pods if job and not job.is_finished else ()
    return await _read_pod_progress(context, next((pod for pod in pods if pod.is_working), None))


async def _read_pod_progress(context: Context, pod: PodView | None) -> Mapping[str, Any] | None:
    if pod is None or not pod.is_reachable:
        return None
    return await context.read_progress(pod)


async def require_secret(context: Context, namespace: str, name: str, *, advice: str) -> Manifest:
    """Return a Secret that pods need.

    Raises:
        Blocked: it does not; the message ends with the advice.
    """
    secret = await context.cluster.get(SECRETS, ObjectKey(namespace, name))
    if secret is None:
        message = f"There is no Secret {name!r} in namespace {namespace!r}. {advice}"
        raise Blocked(Verdict(Reason.SECRET_NOT_FOUND, message))
    return secret


async def require_store_keys(context: Context, namespace: str, name: str, *, field: str) -> None:
    """Check that there is a Secret with the access to a store of its own.

    Without a variable of such a Secret, pods would take that of the namespace's store.

    Args:
        context: of the reconcile.
        namespace: of the Secret.
        name: of the Secret.
        field: the field that names it, such as spec.source.

    Raises:
        Blocked: there is none; the message says what it holds.
    """
    keys = "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL"
    advice = f"{field}.secretRef names it: it holds {keys}."
    secret = await require_secret(context, namespace, name, advice=advice)
    entries = sorted(secret.get("data") or {})
    if not any(entry.startswith("AWS_") for entry in entries):
        content = f"has only {', '.join(entries[:_NAMED_ENTRIES])}" if entries else "is empty"
        raise Blocked(
            Verdict(Reason.SECRET_NOT_FOUND, f"Secret {name!r} in namespace {namespace!r} {content}. {advice}")
        )


async def require_storage_secret(context: Context, namespace: str, *, max_age_seconds: float = 0.0) -> None:
    """Check that the namespace has storage credentials.

    Args:
        context: of the reconcile.
        namespace: of the pods.
        max_age_seconds: how long ago it may have been read last.

    Raises:
        Blocked: it has none; the message has the command that creates them.
    """
    name, read = context.settings.storage_secret, ("storage", namespace)
    if context.recent_times.seconds_left(read, max_age_seconds):
        return
    advice = (
        f"Make it: kubectl create secret generic {name} -n {namespace} --from-literal=AWS_ENDPOINT_URL=… "
        "--from-literal=AWS_ACCESS_KEY_ID=… --from-literal=AWS_SECRET_ACCESS_KEY=… "
        "--from-literal=MLFLOW_TRACKING_URI=…; or list the namespace in the chart's storage.secretNamespaces."
    )
    await require_secret(context, namespace, name, advice=advice)
    context.recent_times.note(read)


async def read_storage_secret(context: Context, namespace: str) -> dict[str, str]:
    """Return the variables that pods of the namespace get from the storage Secret; empty if there is none."""
    secret = await context.cluster.get(SECRETS, ObjectKey(namespace, context.settings.storage_secret))
    data = (secret or {}).get("data") or {}
    return {name: base64.b64decode(value).decode(errors="replace").strip() for name, value in data.items()}
