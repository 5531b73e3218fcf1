"""Removal of the fields that the operator does not read: thousands of objects are in its memory."""

from __future__ import annotations

from bloomery_operator.api.base import Manifest
from bloomery_operator.cluster.kinds import DEPLOYMENTS, JOBS, PODS, ResourceKind

_USED_SPEC_FIELDS: dict[ResourceKind, tuple[str, ...]] = {JOBS: ("suspend", "parallelism"), PODS: ("nodeName",)}
_USED_STATUS_FIELDS: dict[ResourceKind, tuple[str, ...]] = {
    PODS: ("phase", "podIP", "conditions", "containerStatuses", "initContainerStatuses")
}
"""Kinds of which only these fields are read; of all other kinds all fields stay."""


def strip_unused_fields(kind: ResourceKind, manifest: Manifest) -> Manifest:
    """Return the object without the fields that no decision reads, which are most of a pod."""
    metadata = {field: value for field, value in manifest["metadata"].items() if field != "managedFields"}
    if kind is DEPLOYMENTS:
        # These show whether another program sets the number of pods: an autoscaler does so through this subresource.
        fields = manifest["metadata"].get("managedFields", [])
        metadata["managedFields"] = [entry for entry in fields if entry.get("subresource") == "scale"]
    stripped = {**manifest, "metadata": metadata}
    for part, used in (("spec", _USED_SPEC_FIELDS.get(kind)), ("status", _USED_STATUS_FIELDS.get(kind))):
        if used is not None and part in stripped:
            stripped[part] = {field: value for field, value in stripped[part].items() if field in used}
    return stripped
