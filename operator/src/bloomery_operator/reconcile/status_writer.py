"""Writes of an object's status, with an Event for each change that somebody has to act on."""

from __future__ import annotations

import logging
from collections.abc import Set
from datetime import datetime
from typing import Any, TypeVar

from bloomery_operator.api import (
    BatchPrediction,
    Condition,
    CustomResource,
    Dataset,
    InferenceService,
    InvalidResource,
    Retraining,
    TrainingJob,
)
from bloomery_operator.api.base import API_GROUP, API_VERSION, Manifest
from bloomery_operator.api.conditions import CustomResourceStatus
from bloomery_operator.api.reasons import Reason, Severity, severity_of
from bloomery_operator.cluster.client import ClusterError
from bloomery_operator.cluster.kinds import ObjectKey, ResourceKind, kind_of
from bloomery_operator.cluster.object_cache import key_of
from bloomery_operator.domain.timestamps import format_time
from bloomery_operator.domain.verdict import Verdict
from bloomery_operator.reconcile.context import Context
from bloomery_operator.status.conditions import (
    RECONCILING,
    STALLED,
    TRAINING_SUCCEEDED,
    condition,
    with_kstatus_conditions,
    with_transition_times,
)

logger = logging.getLogger(__name__)

_MAX_EVENT_MESSAGE_CHARACTERS = 1000
_FINAL_CONDITIONS = ("Complete", "Failed")
"""Conditions of finished work, whose status stays as it is."""
_MAIN_CONDITIONS = {TrainingJob.KIND: "Running", BatchPrediction.KIND: "Running"}
"""The condition that shows what an object waits for; Ready for the other kinds."""
_FIRST_PHASES = {
    Dataset.KIND: "Pending",
    TrainingJob.KIND: "Pending",
    Retraining.KIND: "Pending",
    InferenceService.KIND: "Deploying",
    BatchPrediction.KIND: "Pending",
}

Resource = TypeVar("Resource", bound=CustomResource)


class StaleOwner(Exception):
    """The object has changed, or is gone, since it was read: it must be read and reconciled again."""


async def publish_status(context: Context, resource: Resource, status: CustomResourceStatus) -> Resource:
    """Apply the status if it differs, with an Event for each new warning or failure; return the object as it is now.

    Raises:
        StaleOwner: the status is that of an object as it was before.
    """
    before, now = resource.status, context.now()
    complete = with_kstatus_conditions(resource.KIND, status, previous=before, now=now).within_limits()
    if complete == before:
        return resource
    accepted, version = await _apply_status(context, resource, complete)
    try:
        for warning in _new_warnings(before, accepted):
            await context.cluster.create(_build_event(resource, warning, now))
    except ClusterError as error:
        # The namespace is being deleted, and nothing can be created in it any more.
        if error.code != 404 and "NamespaceTerminating" not in error.causes:
            raise
    metadata = resource.metadata.model_copy(update={"resource_version": version})
    return resource.model_copy(update={"status": complete, "metadata": metadata})


async def _apply_status(
    context: Context, resource: CustomResource, status: CustomResourceStatus
) -> tuple[CustomResourceStatus, str]:
    """Apply a status, or a minimal one if the API server rejects it; return that, and the object's new version."""
    try:
        return status, await _apply_declared(context, resource, status)
    except ClusterError as error:
        if not error.is_refusal:
            raise
        logger.warning("the status of %s %s is refused: %s", resource.KIND, resource.metadata.name, error)
        minimal = _minimal_status(resource, error, context.now())
    if minimal == resource.status:
        return minimal, resource.metadata.resource_version
    return minimal, await _apply(context, _build_manifest(resource, minimal))


async def _apply(context: Context, manifest: Manifest) -> str:
    """Apply a status to the version of the object that was read; return the new version.

    The object goes into the cache at once, so that no reconcile decides by what it was before.
    """
    kind, key = kind_of(manifest), key_of(manifest)
    try:
        applied = await context.cluster.apply_status(manifest)
    except ClusterError as error:
        if error.code in (404, 409):
            raise StaleOwner(f"{kind.kind} {key}: {error}") from error
        raise
    cached = context.object_cache.get(kind, key)
    if cached is not None and cached["metadata"]["uid"] == applied["metadata"]["uid"]:
        context.object_cache.put(kind, applied)
    return str(applied["metadata"]["resourceVersion"])


async def _apply_declared(context: Context, resource: CustomResource, status: CustomResourceStatus) -> str:
    """Apply a status without the fields that the kind in the cluster, of an earlier release perhaps, does not have."""
    manifest = _build_manifest(resource, status)
    try:
        return await _apply(context, manifest)
    except ClusterError as error:
        undeclared = {field for field in error.undeclared_fields if field[0] == "status"}
        if not undeclared:
            raise
        logger.warning(
            "the cluster's kind %s has no %s, so it is not shown: apply the kinds of this release",
            resource.KIND, ", ".join(sorted(".".join(field) for field in undeclared)),
        )  # fmt: skip
        return await _apply(context, _without_fields(manifest, undeclared))


def _without_fields(value: Any, fields: Set[tuple[str, ...]], *parents: str) -> Any:
    """Return a JSON value without some fields; the items of a list have the parents of the list."""
    if isinstance(value, list):
        return [_without_fields(child, fields, *parents) for child in value]
    if not isinstance(value, dict):
        return value
    return {
        name: _without_fields(child, fields, *parents, name)
        for name, child in value.items()
        if (*parents, name) not in fields
    }


def _build_manifest(resource: CustomResource, status: CustomResourceStatus) -> Manifest:
    metadata = resource.metadata
    return {
        "apiVersion": f"{API_GROUP}/{API_VERSION}",
        "kind": resource.KIND,
        # A new object of the same name, or a changed one, does not get the status of the old one.
        "metadata": {
            "name": metadata.name,
            "namespace": metadata.namespace,
            "uid": metadata.uid,
            "resourceVersion": metadata.resource_version,
        },
        "status": status.to_json(),
    }


def _minimal_status(resource: CustomResource, error: ClusterError, now: datetime) -> CustomResourceStatus:
    """Return the last accepted status with a condition that has what the API server reports about the new one."""
    before, generation = resource.status, resource.metadata.generation
    type_ = _MAIN_CONDITIONS.get(resource.KIND, "Ready")
    message = f"The API server refuses the status, and the last one that it took is shown: {error}"
    refused = with_transition_times(
        (condition(type_, False, Verdict(Reason.STATUS_REFUSED, message)),),
        previous=before.conditions,
        generation=generation,
        now=now,
    )
    others = tuple(c for c in before.conditions if c.type != type_)
    phase = before.phase or _FIRST_PHASES[resource.KIND]
    update = {"observed_generation": generation, "phase": phase, "conditions": (*refused, *others)}
    minimal = with_kstatus_conditions(resource.KIND, before.model_copy(update=update), previous=before, now=now)
    return minimal.within_limits()


def _new_warnings(before: CustomResourceStatus, after: CustomResourceStatus) -> list[Condition]:
    """Return the conditions that somebody has to act on; what goes well stands in the conditions alone."""
    known = set(map(_what_happened, before.conditions))
    warnings = (
        c
        for c in after.conditions
        # Conditions of kstatus repeat another one.
        if _what_happened(c) not in known
        and c.type not in (RECONCILING, STALLED)
        and (after.phase == "Failed" or severity_of(c.reason) is Severity.WARNING)
    )
    # Two conditions often have the same reason and message: one Event is enough.
    return list({(c.reason, c.message): c for c in warnings}.values())


def _what_happened(condition: Condition) -> tuple[str | None, ...]:
    """Return by what a condition differs from one that was known; other words are none, but another job's result is."""
    message = condition.message if condition.type == TRAINING_SUCCEEDED else None
    return condition.type, condition.status, condition.reason, message


async def publish_invalid(context: Context, kind: ResourceKind, key: ObjectKey, error: InvalidResource) -> None:
    """Set an object's Ready condition to False with the error that makes it unreadable."""
    manifest = context.object_cache.get(kind, key)
    if manifest is None:
        return
    known = manifest.get("status", {})
    conditions = {c["type"]: c for c in known.get("conditions", [])}
    is_final = any(conditions.get(end, {}).get("status") == "True" for end in _FINAL_CONDITIONS)
    verdict = Verdict(Reason.INVALID_SPEC, f"The object cannot be read: {error}", failed=True)
    generation = manifest["metadata"].get("generation", 1)
    old = conditions.get("Ready", {})
    if is_final or (old.get("reason"), old.get("observedGeneration")) == (verdict.reason, generation):
        return
    (ready,) = with_transition_times(
        (condition("Ready", False, verdict),), previous=(), generation=generation, now=context.now()
    )
    # The rest of the status is applied again, as it would be removed otherwise; another version may read the object.
    conditions["Ready"] = ready.to_json()
    conditions.pop(RECONCILING, None)
    conditions[STALLED] = ready.model_copy(update={"type": STALLED, "status": "True"}).to_json()
    status = known | {"phase": "Failed", "conditions": list(conditions.values())}
    metadata = {field: manifest["metadata"][field] for field in ("name", "namespace", "uid", "resourceVersion")}
    identity = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata}
    await _apply(context, identity | {"status": status})


def _build_event(resource: CustomResource, warning: Condition, now: datetime) -> Manifest:
    metadata = resource.metadata
    timestamp = format_time(now)
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
        "type": Severity.WARNING.value,
        "reason": warning.reason,
        "message": warning.message[:_MAX_EVENT_MESSAGE_CHARACTERS],
        "source": {"component": "bloomery-operator"},
        "firstTimestamp": timestamp,
        "lastTimestamp": timestamp,
        "count": 1,
    }
