"""What the operator keeps of an object: thousands of them lie in its memory."""

from __future__ import annotations

from bloomery_operator.api.base import Manifest
from bloomery_operator.cluster.kinds import DEPLOYMENTS, JOBS, PODS, Kind

_SPEC: dict[Kind, tuple[str, ...]] = {JOBS: ("suspend",), PODS: ("nodeName",)}
_STATUS: dict[Kind, tuple[str, ...]] = {PODS: ("phase", "podIP", "conditions", "containerStatuses")}
"""Of these kinds only these fields are read; of the others all."""


def trimmed(kind: Kind, manifest: Manifest) -> Manifest:
    """Return the object without what no decision reads, which is most of a pod."""
    metadata = {field: value for field, value in manifest["metadata"].items() if field != "managedFields"}
    if kind is DEPLOYMENTS:
        # Who else sets the number of pods: an autoscaler does it by this subresource.
        fields = manifest["metadata"].get("managedFields", [])
        metadata["managedFields"] = [entry for entry in fields if entry.get("subresource") == "scale"]
    kept = {**manifest, "metadata": metadata}
    for part, read in (("spec", _SPEC.get(kind)), ("status", _STATUS.get(kind))):
        if read is not None and part in kept:
            kept[part] = {field: value for field, value in kept[part].items() if field in read}
    return kept
