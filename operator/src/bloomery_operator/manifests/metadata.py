"""Metadata of child objects: name, labels and owner."""

from __future__ import annotations

from bloomery_operator.api.base import API_GROUP, API_VERSION, Manifest
from bloomery_operator.api.custom_resource import CustomResource
from bloomery_operator.domain.labels import child_labels


def child_metadata(
    owner: CustomResource, *, name: str, role: str, annotations: dict[str, str] | None = None
) -> Manifest:
    """Return a child's metadata; its ownerReference lets the garbage collector remove it with its owner."""
    metadata: Manifest = {
        "name": name,
        "namespace": owner.metadata.namespace,
        "labels": child_labels(owner, role=role),
        "ownerReferences": [owner_reference(owner)],
    }
    return metadata | ({"annotations": annotations} if annotations else {})


def owner_reference(owner: CustomResource) -> Manifest:
    """Return the controller reference to a custom resource."""
    return {
        "apiVersion": f"{API_GROUP}/{API_VERSION}",
        "kind": owner.KIND,
        "name": owner.metadata.name,
        "uid": owner.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
