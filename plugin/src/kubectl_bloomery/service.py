"""What is read from an InferenceService: pure."""

from __future__ import annotations

from kubectl_bloomery.kubectl import CommandError, Manifest


def variant_names(service: Manifest) -> list[str]:
    """Return the names of its variants."""
    return [str(variant["name"]) for variant in service["spec"]["variants"]]


def require_variant(service: Manifest, name: str) -> str:
    """Return the name of a variant.

    Raises:
        CommandError: there is none of the name.
    """
    names = variant_names(service)
    if name not in names:
        raise CommandError(f"{service['metadata']['name']} has no variant {name}: it has {', '.join(names)}.")
    return name


def why_not_ready(service: Manifest) -> str:
    """Return what the operator says of it."""
    conditions = service.get("status", {}).get("conditions", [])
    return next((str(c["message"]) for c in conditions if c["type"] == "Ready"), "the operator has not seen it yet.")


def serving_revision(service: Manifest, asked: str | None) -> str:
    """Return the Service of the variant that was asked for, or of the one with the most traffic.

    Raises:
        CommandError: no pod of it answers.
    """
    found = service.get("status", {}).get("variants", [])
    ready = [v for v in found if v.get("ready") and v.get("revision") and asked in (None, v["name"])]
    if not ready:
        which = f"The variant {asked} of {service['metadata']['name']}" if asked else service["metadata"]["name"]
        raise CommandError(f"{which} does not answer: {why_not_ready(service)}")
    return str(max(ready, key=lambda variant: variant.get("weight", 0))["revision"])
