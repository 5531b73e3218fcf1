"""Writes of an object's status, with an Event for each condition that changed."""

from __future__ import annotations

import logging
from collections.abc import Set
from datetime import datetime
from typing import Any, TypeVar

from bloomery_operator.api import (
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
from bloomery_operator.cluster.kinds import ObjectKey, ResourceKind
from bloomery_operator.domain.timestamps import format_time
from bloomery_operator.domain.verdict import Verdict
from bloomery_operator.reconcile.context import Context
from bloomery_operator.status.conditions import (
    RECONCILING,
    STALLED,
    condition,
    with_kstatus_conditions,
    with_transition_times,
)

logger = logging.getLogger(__name__)

_MAX_EVENT_MESSAGE_CHARACTERS = 1000
_FINAL_CONDITIONS = ("Complete", "Failed")
"""Conditions of finished work, whose status stays as it is."""
_MAIN_CONDITIONS = {TrainingJob.KIND: "Running"}
"""The condition that shows what an object waits for; Ready for the other kinds."""
_FIRST_PHASES = {
    Dataset.KIND: "Pending",
    TrainingJob.KIND: "Pending",
    Retraining.KIND: "Pending",
    InferenceService.KIND: "Deploying",
}

Status = TypeVar("Status", bound=CustomResourceStatus)


async def publish_status(context: Context, resource: CustomResource, status: Status) -> Status:
    """Apply the status if it differs, and create an Event for each condition that changed; return it as it is now."""
    before, now = resource.status, context.now()
    complete = with_kstatus_conditions(resource.KIND, status, previous=before, now=now).within_limits()
    if complete == before:
        return complete
    try:
        accepted = await _apply_status(context, resource, complete)
        for changed in _changed_conditions(before, accepted):
            await context.cluster.create(_build_event(resource, changed, now))
    except ClusterError as error:
        # The object was deleted meanwhile, alone or with its namespace, in which nothing can be created any more.
        if error.code != 404 and "NamespaceTerminating" not in error.causes:
            raise
    return complete


async def _apply_status(context: Context, resource: CustomResource, status: Status) -> CustomResourceStatus:
    """Apply a status, or a minimal one if the API server rejects it; return the one that it accepted."""
    try:
        await _apply_declared(context, resource, status)
        return status
    except ClusterError as error:
        if not error.is_refusal:
            raise
        logger.warning("the status of %s %s is refused: %s", resource.KIND, resource.metadata.name, error)
        minimal = _minimal_status(resource, error, context.now())
    if minimal != resource.status:
        await context.cluster.apply_status(_build_manifest(resource, minimal))
    return minimal


async def _apply_declared(context: Context, resource: CustomResource, status: CustomResourceStatus) -> None:
    """Apply a status without the fields that the kind in the cluster, of an earlier release perhaps, does not have."""
    manifest = _build_manifest(resource, status)
    try:
        await context.cluster.apply_status(manifest)
    except ClusterError as error:
        undeclared = {field for field in error.undeclared_fields if field[0] == "status"}
        if not undeclared:
            raise
        logger.warning(
            "the cluster's kind %s has no %s, so it is not shown: apply the kinds of this release",
            resource.KIND, ", ".join(sorted(".".join(field) for field in undeclared)),
        )  # fmt: skip
        await context.cluster.apply_status(_without_fields(manifest, undeclared))


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
        # With the uid, a new object of the same name does not get the status of the old one.
        "metadata": {"name": metadata.name, "namespace": metadata.namespace, "uid": metadata.uid},
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


def _changed_conditions(before: CustomResourceStatus, after: CustomResourceStatus) -> list[Condition]:
    known = {(c.type, c.status, c.reason) for c in before.conditions}
    changed = (
        c
        for c in after.conditions
        # Conditions of kstatus repeat another one.
        if (c.type, c.status, c.reason) not in known and c.type not in (RECONCILING, STALLED)
    )
    # Two conditions often have the same reason and message: one Event is enough.
    return list({(c.reason, c.message): c for c in changed}.values())


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
    metadata = {field: manifest["metadata"][field] for field in ("name", "namespace", "uid")}
    identity = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata}
    await context.cluster.apply_status(identity | {"status": status})


def _build_event(resource: CustomResource, changed: Condition, now: datetime) -> Manifest:
    metadata = resource.metadata
    severity = Severity.WARNING if changed.type == "Failed" else severity_of(changed.reason)
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
        "type": severity.value,
        "reason": changed.reason,
        "message": changed.message[:_MAX_EVENT_MESSAGE_CHARACTERS],
        "source": {"component": "bloomery-operator"},
        "firstTimestamp": timestamp,
        "lastTimestamp": timestamp,
        "count": 1,
    }
