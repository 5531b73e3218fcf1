"""InferenceServices: their variants, revisions and Deployments."""

from __future__ import annotations

from kubectl_bloomery.cluster.kubectl import Kubectl, Manifest
from kubectl_bloomery.errors import CommandError

RETIRED_AT_ANNOTATION = "bloomery.dev/retired-at"
APPROVED_ANNOTATION = "bloomery.dev/approved"


def variant_names(service: Manifest) -> list[str]:
    """Return the names of the variants in the spec."""
    return [str(variant["name"]) for variant in service["spec"]["variants"]]


def require_variant(service: Manifest, name: str) -> str:
    """Return the name of a variant if the service has it.

    Raises:
        CommandError: the service has no such variant.
    """
    names = variant_names(service)
    if name not in names:
        raise CommandError(f"{service['metadata']['name']} has no variant {name}: it has {', '.join(names)}.")
    return name


def not_ready_message(service: Manifest) -> str:
    """Return the message of the condition Ready."""
    conditions = service.get("status", {}).get("conditions", [])
    return next((str(c["message"]) for c in conditions if c["type"] == "Ready"), "the operator has not seen it yet.")


def serving_revision(service: Manifest, variant: str | None) -> str:
    """Return the name of the Kubernetes Service of a variant, by default of the one with the most traffic.

    Raises:
        CommandError: no pod of it is ready.
    """
    variants = service.get("status", {}).get("variants", [])
    ready = [v for v in variants if v.get("ready") and v.get("revision") and variant in (None, v["name"])]
    if not ready:
        name = service["metadata"]["name"]
        subject = f"The variant {variant} of {name}" if variant else name
        raise CommandError(f"{subject} does not answer: {not_ready_message(service)}")
    return str(max(ready, key=lambda v: v.get("weight", 0))["revision"])


def serving_deployment(kubectl: Kubectl, service: Manifest, variant: str) -> Manifest:
    """Return the Deployment that serves a variant; during a rollout, the old one.

    Raises:
        CommandError: the variant has no Deployment yet.
    """
    name = service["metadata"]["name"]
    labels = {"bloomery.dev/inferenceservice": name, "bloomery.dev/variant": variant}
    serving = [
        deployment
        for deployment in kubectl.select("deployments.apps", labels)
        if RETIRED_AT_ANNOTATION not in deployment["metadata"].get("annotations", {})
    ]
    if not serving:
        raise CommandError(f"The variant {variant} of {name} has no model yet: {not_ready_message(service)}")
    return min(serving, key=lambda deployment: str(deployment["metadata"]["creationTimestamp"]))


def approval(service: Manifest) -> tuple[int, str]:
    """Return the percentage at which a rollout waits for a person, and the annotation that approves it.

    Raises:
        CommandError: no rollout waits for that.
    """
    name, rollout = service["metadata"]["name"], service.get("status", {}).get("rollout")
    pauses = service["spec"].get("rollout", {}).get("pauseAt", [])
    if rollout is None or rollout.get("aborted"):
        raise CommandError(f"{name} has no rollout that could be approved: {not_ready_message(service)}")
    percent = rollout.get("percent")
    if percent not in pauses:
        listed = f"its pauseAt is {pauses}" if pauses else "it has no pauseAt"
        raise CommandError(
            f"The rollout of {name} does not wait for approval: {percent} percent has moved, and {listed}."
        )
    return percent, f"{APPROVED_ANNOTATION}={rollout['generation']}/{percent}/{rollout['since']}"
