"""What every reconcile works with, and the steps that the three share."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

from bloomery_operator.api import CustomResource, InvalidResource
from bloomery_operator.api.common import API_GROUP, API_VERSION, Manifest
from bloomery_operator.cluster.apply_cache import ApplyCache, owner_of
from bloomery_operator.cluster.client import Cluster, ClusterError
from bloomery_operator.cluster.gateway import Gateway
from bloomery_operator.cluster.kinds import JOBS, PODS, SECRETS, ObjectKey, ResourceKind
from bloomery_operator.cluster.object_cache import ObjectCache
from bloomery_operator.resources.jobs import job_name
from bloomery_operator.resources.metadata import controller_of, controller_uid
from bloomery_operator.resources.serve import ServedModel
from bloomery_operator.settings import Settings
from bloomery_operator.status.rollout import RequestStats
from bloomery_operator.status.verdicts import Verdict, condition, dated
from bloomery_operator.status.workload import JobView, PodView

Resource = TypeVar("Resource", bound=CustomResource)
ProgressReader = Callable[[PodView], Awaitable[Mapping[str, Any] | None]]
TrainerStopper = Callable[[PodView, str], Awaitable[bool]]


class ModelServerMetrics(Protocol):
    """What model servers count."""

    async def request_stats(
        self, step: str, since: datetime, revisions: Mapping[str, Sequence[PodView]]
    ) -> dict[str, RequestStats]:
        """Return what each revision's pods counted in a rollout's step, which began at a time, as far as is known."""

    async def seconds_idle(self, pods: Sequence[PodView]) -> float:
        """Return for how many seconds a revision's pods have seen no request, as far as is known."""

    async def model(self, pods: Sequence[PodView]) -> ServedModel | None:
        """Return the model that the first ready pod serves: its digest, and where it comes from."""


class Registry(Protocol):
    """MLflow's registry, asked with the variables that a namespace's pods have."""

    async def find(self, environment: Mapping[str, str], reference: str) -> ServedModel | Verdict:
        """Return the model that a reference means now, or what stands in the way."""

    async def tag_served(
        self, environment: Mapping[str, str], model: tuple[str, str], *, service: str, variants: str
    ) -> bool:
        """Note on a model version which service serves it; return whether MLflow took it."""

    async def list_served(self, environment: Mapping[str, str], namespace: str) -> list[tuple[str, tuple[str, str]]]:
        """Return which model versions are noted as served by services of the namespace."""


def utc_now() -> datetime:
    """Return the time in whole seconds, as Kubernetes keeps it."""
    return datetime.now(UTC).replace(microsecond=0)


@dataclass(frozen=True, kw_only=True)
class Context:
    """The outside world as a reconcile sees it."""

    cluster: Cluster
    object_cache: ObjectCache
    settings: Settings
    read_progress: ProgressReader
    stop_trainer: TrainerStopper
    registry: Registry
    servers: ModelServerMetrics
    apply_cache: ApplyCache = field(default_factory=ApplyCache)
    gateway: Gateway = field(default_factory=Gateway)
    now: Callable[[], datetime] = utc_now


Reconciler = Callable[[Context, ObjectKey], Awaitable[float | None]]


_ENDS = ("Complete", "Failed")
"""Conditions of work that is over: its result stays as it is."""
_CONTROLLER_UID = "batch.kubernetes.io/controller-uid"
"""Label that the Job controller puts on its pods."""


def read_parent(context: Context, kind: ResourceKind, model: type[Resource], key: ObjectKey) -> Resource | None:
    """Return the object to reconcile; None when it is gone or going."""
    manifest = context.object_cache.get(kind, key)
    if manifest is None or "deletionTimestamp" in manifest["metadata"]:
        return None
    return model.parse(manifest)


def find(context: Context, kind: ResourceKind, model: type[Resource], key: ObjectKey) -> Resource | None:
    """Return another object that the one at hand refers to; one that can not be read counts as not there."""
    try:
        return read_parent(context, kind, model, key)
    except InvalidResource:
        return None


async def observe_job(context: Context, owner: CustomResource, command: str) -> JobView | None:
    """Return the owner's Job for a command of the trainer, with its pods."""
    namespace, name = owner.metadata.namespace, job_name(owner, command)
    owned = context.object_cache.controlled_by(JOBS, namespace, owner.metadata.uid)
    jobs = [job for job in owned if job["metadata"]["name"] == name]
    if not jobs:
        return None
    uid = jobs[0]["metadata"]["uid"]
    job = JobView.of(jobs[0], context.object_cache.controlled_by(PODS, namespace, uid))
    if not job.is_finished or job.last_words:
        return job
    # The news of the Job's end may overtake that of its pod's last words, and a finished job is final.
    pods = await context.cluster.list(PODS, namespace=namespace, selector=f"{_CONTROLLER_UID}={uid}")
    return JobView.of(jobs[0], pods.items)


async def progress_of(context: Context, job: JobView | None) -> Mapping[str, Any] | None:
    """Return what the Job's running pod says of its progress."""
    pod = job.current_pod if job and not job.succeeded and job.failure is None else None
    if pod is None or pod.phase != "Running" or pod.ip is None:
        return None
    return await context.read_progress(pod)


async def missing_secret(context: Context, namespace: str, name: str, *, advice: str) -> Verdict | None:
    """Notice that pods would wait for a Secret."""
    if await context.cluster.get(SECRETS, ObjectKey(namespace, name)) is not None:
        return None
    return Verdict("SecretNotFound", f"There is no Secret {name!r} in namespace {namespace!r}. {advice}")


async def missing_storage_secret(context: Context, namespace: str) -> Verdict | None:
    """Notice that the namespace has no storage credentials, and say the one command that makes them."""
    name = context.settings.storage_secret
    advice = (
        f"Make it: kubectl create secret generic {name} -n {namespace} --from-literal=AWS_ENDPOINT_URL=… "
        "--from-literal=AWS_ACCESS_KEY_ID=… --from-literal=AWS_SECRET_ACCESS_KEY=… "
        "--from-literal=MLFLOW_TRACKING_URI=…; or list the namespace in the chart's storage.secretNamespaces."
    )
    return await missing_secret(context, namespace, name, advice=advice)


async def read_storage_secret(context: Context, namespace: str) -> dict[str, str]:
    """Return the variables that pods of the namespace get from the storage Secret; empty where there is none."""
    secret = await context.cluster.get(SECRETS, ObjectKey(namespace, context.settings.storage_secret))
    data = (secret or {}).get("data") or {}
    return {name: base64.b64decode(value).decode(errors="replace") for name, value in data.items()}


async def create_owned(
    context: Context, owner: CustomResource, manifest: Manifest, kind: ResourceKind
) -> Verdict | None:
    """Create a child; a namesake of somebody else's is never adopted, and one that is going is waited for."""
    if await context.cluster.create(manifest) is not None:
        return None
    existing = await context.cluster.get(kind, ObjectKey(owner.metadata.namespace, manifest["metadata"]["name"]))
    # Gone between the two questions: the next try makes it.
    return _replacing(manifest) if existing is None else taken(owner, existing)


async def apply_owned(
    context: Context, owner: CustomResource, manifest: Manifest, kind: ResourceKind
) -> Manifest | Verdict:
    """Make a child as described and return it; a namesake of somebody else's is left as it is.

    What is as it was left is not applied again; where no watch tells, it is looked at once in the time of a resync.
    """
    key = ObjectKey(owner.metadata.namespace, manifest["metadata"]["name"])
    seen = context.object_cache.get(kind, key)
    # A little less than that, so that every resync looks again.
    seconds = 0.9 * context.settings.resync_seconds
    if not context.object_cache.is_watched(kind) and context.apply_cache.was_applied_within(
        owner_of(owner), kind, manifest, seconds
    ):
        return manifest
    existing = seen or await context.cluster.get(kind, key)
    obstacle = taken(owner, existing) if existing is not None else None
    if obstacle is not None:
        return obstacle
    if existing is not None and context.apply_cache.is_unchanged(owner_of(owner), kind, manifest, existing):
        if seen is None:
            context.apply_cache.record(owner_of(owner), kind, manifest, existing)
        return existing
    applied = await context.cluster.apply(manifest)
    context.apply_cache.record(owner_of(owner), kind, manifest, applied)
    return applied


async def delete_owned(context: Context, owner: CustomResource, kind: ResourceKind, name: str) -> None:
    """Delete a child that is not wanted any more, where there is one; a namesake of somebody else's stays."""
    key = ObjectKey(owner.metadata.namespace, name)
    is_followed = context.object_cache.is_watched(kind)
    existing = context.object_cache.get(kind, key) if is_followed else await context.cluster.get(kind, key)
    if existing is not None and controller_uid(existing) == owner.metadata.uid:
        await context.cluster.delete(kind, key, uid=existing["metadata"]["uid"])
    context.apply_cache.forget(owner_of(owner), kind, name)


def _replacing(former: Manifest) -> Verdict:
    return Verdict("Replacing", f"{former['kind']} {former['metadata']['name']!r} of before is still being removed.")


def taken(owner: CustomResource, existing: Manifest) -> Verdict | None:
    """Say why an object that has a child's name is not that child."""
    kind, metadata = existing["kind"], existing["metadata"]
    controller = controller_of(existing)
    if "deletionTimestamp" in metadata:
        return _replacing(existing)
    if controller.get("uid") == owner.metadata.uid:
        return None
    if (controller.get("kind"), controller.get("name")) == (owner.KIND, owner.metadata.name):
        return _replacing(existing)
    return Verdict(
        "NameTaken", f"{kind} {metadata['name']!r} exists already and belongs to something else: delete or rename it."
    )


def refusal(error: ClusterError) -> Verdict:
    """Put the API server's refusal of a child into words; anything else is raised, to be tried again."""
    if not error.is_refusal:
        raise error
    return Verdict("Refused", f"The API server refused an object that this needs: {error}")


async def publish_status(context: Context, resource: CustomResource, status: Any) -> None:
    """Patch the status if it differs, and record an Event for each condition that changed."""
    before = getattr(resource, "status")  # noqa: B009 - each kind declares its own status type
    if status == before:
        return
    manifest = {
        "apiVersion": f"{API_GROUP}/{API_VERSION}",
        "kind": resource.KIND,
        # With the uid, an object made anew under the same name does not get the old one's status.
        "metadata": {
            "name": resource.metadata.name,
            "namespace": resource.metadata.namespace,
            "uid": resource.metadata.uid,
        },
        "status": status.to_json(),
    }
    known = {(c.type, c.status, c.reason) for c in before.conditions}
    changed = (c for c in status.conditions if (c.type, c.status, c.reason) not in known)
    # Two conditions often say the same: once is enough.
    news = {(c.reason, c.message): c for c in changed}.values()
    try:
        await context.cluster.apply_status(manifest)
        for new in news:
            await context.cluster.create(_event(resource, new, context.now()))
    except ClusterError as error:
        # Deleted in the meantime, alone or with its namespace, in which nothing can be made any more.
        if error.code != 404 and "NamespaceTerminating" not in error.causes:
            raise


async def publish_invalid(context: Context, kind: ResourceKind, key: ObjectKey, error: InvalidResource) -> None:
    """Say in the object's own condition that it can not be read."""
    manifest = context.object_cache.get(kind, key)
    if manifest is None:
        return
    known = manifest.get("status", {})
    conditions = {c["type"]: c for c in known.get("conditions", [])}
    is_final = any(conditions.get(end, {}).get("status") == "True" for end in _ENDS)
    verdict = Verdict("InvalidSpec", f"The object can not be read: {error}", failed=True)
    generation = manifest["metadata"].get("generation", 1)
    old = conditions.get("Ready", {})
    if is_final or (old.get("reason"), old.get("observedGeneration")) == (verdict.reason, generation):
        return
    (ready,) = dated((condition("Ready", False, verdict),), previous=(), generation=generation, now=context.now())
    # All that it had is kept: what is not applied again is removed, and another operator may be able to read it.
    conditions["Ready"] = ready.to_json()
    status = known | {"phase": "Failed", "conditions": list(conditions.values())}
    metadata = {field: manifest["metadata"][field] for field in ("name", "namespace", "uid")}
    blank = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata}
    await context.cluster.apply_status(blank | {"status": status})


def _event(resource: CustomResource, new: Any, now: datetime) -> Manifest:
    metadata = resource.metadata
    stamp = now.isoformat().replace("+00:00", "Z")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "generateName": f"{metadata.name}.",
            "namespace": metadata.namespace,
        },
        "involvedObject": {
            "apiVersion": f"{API_GROUP}/{API_VERSION}",
            "kind": resource.KIND,
            "name": metadata.name,
            "namespace": metadata.namespace,
            "uid": metadata.uid,
        },
        "type": "Warning" if new.type == "Failed" or new.reason in _WARNING_REASONS else "Normal",
        "reason": new.reason,
        "message": new.message[:1000],
        "source": {"component": "bloomery-operator"},
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
    }


_WARNING_REASONS = frozenset(
    {
        "DatasetFailed",
        "DatasetNotFound",
        "DatasetVersionNotFound",
        "ImageNotAvailable",
        "InitialModelFailed",
        "InitialModelNotFound",
        "ModelNotFound",
        "ModelNotOurs",
        "NameTaken",
        "NodeLost",
        "NotRegistered",
        "PathTaken",
        "PodNotConfigured",
        "Refused",
        "RolloutAborted",
        "RegistryNotConfigured",
        "RegistryUnreachable",
        "SecretNotFound",
        "TrainingJobFailed",
        "TrainingJobNotFound",
        "Unschedulable",
    }
)
