"""Names, labels, owners and hashes that all children carry."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from bloomery_operator.api.common import API_GROUP, API_VERSION, CustomResource, Manifest

MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "bloomery"
SELECTOR = f"{MANAGED_BY}={MANAGER}"
"""Label selector of everything that the operator makes."""

SPEC_HASH = "bloomery.dev/spec-hash"
REFRESH = "bloomery.dev/refresh"
VARIANT = "bloomery.dev/variant"
REVISION = "bloomery.dev/revision"
RETIRED_AT = "bloomery.dev/retired-at"
AUTOSCALED = "bloomery.dev/autoscaled"
SERVED_TAG = "bloomery.dev/served-tag"


def digest_of(document: Any, *, length: int = 10) -> str:
    """Return the first hex characters of the SHA-256 of a JSON document, the same for equal documents."""
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:length]


def labels_of(owner: CustomResource, *, role: str) -> dict[str, str]:
    """Return the labels of a child; ``role`` says what it does: prepare, train or serve."""
    return {
        MANAGED_BY: MANAGER,
        "app.kubernetes.io/name": role,
        "app.kubernetes.io/instance": owner.metadata.name,
        owner.OWNER_LABEL: owner.metadata.name,
    }


def child_metadata(
    owner: CustomResource, *, name: str, role: str, annotations: dict[str, str] | None = None
) -> Manifest:
    """Return a child's metadata; its ownerReference lets the garbage collector remove it with its owner."""
    metadata: Manifest = {
        "name": name,
        "namespace": owner.metadata.namespace,
        "labels": labels_of(owner, role=role),
        "ownerReferences": [owner_reference(owner)],
    }
    return metadata | ({"annotations": annotations} if annotations else {})


def owner_reference(owner: CustomResource) -> Manifest:
    """Return the controller reference to an object of ours."""
    return {
        "apiVersion": f"{API_GROUP}/{API_VERSION}",
        "kind": owner.KIND,
        "name": owner.metadata.name,
        "uid": owner.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def controller_of(manifest: Manifest) -> Manifest:
    """Return the reference to the object's controller; empty where it has none."""
    references = manifest.get("metadata", {}).get("ownerReferences", [])
    return next((reference for reference in references if reference.get("controller")), {})


def controller_uid(manifest: Manifest) -> str | None:
    """Return the uid of the object's controller, if it has one."""
    return controller_of(manifest).get("uid")
