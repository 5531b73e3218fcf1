"""Controllers of child objects, as their ownerReferences name them."""

from __future__ import annotations

from bloomery_operator.api.base import Manifest


def controller_of(manifest: Manifest) -> Manifest:
    """Return the reference to the object's controller; empty if it has none."""
    references = manifest.get("metadata", {}).get("ownerReferences", [])
    return next((reference for reference in references if reference.get("controller")), {})


def controller_uid(manifest: Manifest) -> str | None:
    """Return the uid of the object's controller, if it has one."""
    return controller_of(manifest).get("uid")
