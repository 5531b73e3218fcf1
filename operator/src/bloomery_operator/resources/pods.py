"""What every pod of ours has in common: Pod Security ``restricted``, resources, credentials."""

from __future__ import annotations

from kubernetes.utils.quantity import parse_quantity

from bloomery_operator.api.common import Manifest, PodTemplate, Resources

USER_ID = 10001
CONFIG_FOLDER = "/etc/bloomery"


def restricted_pod() -> Manifest:
    """Return the pod-level fields that the ``restricted`` Pod Security standard asks for."""
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }


def restricted_container() -> Manifest:
    """Return the container-level fields that the ``restricted`` Pod Security standard asks for."""
    return {
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    }


def overlaid(template: Manifest, extra: PodTemplate | None) -> Manifest:
    """Return a pod template with the user's additions, none of which replaces our labels or frees a container."""
    if extra is None:
        return template
    metadata = template["metadata"] | {"labels": {**extra.labels, **template["metadata"]["labels"]}}
    if extra.annotations:
        metadata["annotations"] = dict(extra.annotations)
    added = {f: value for f, value in extra.to_json().items() if value and f not in ("labels", "annotations")}
    if extra.tolerations:
        added["tolerations"] = [*template["spec"].get("tolerations", ()), *added["tolerations"]]
    return {"metadata": metadata, "spec": template["spec"] | added}


def credentials(secret: str, *, prefix: str = "") -> Manifest:
    """Return an ``envFrom`` entry: every key of the Secret becomes a variable, ``prefix`` before it."""
    return ({"prefix": prefix} if prefix else {}) | {"secretRef": {"name": secret}}


def literal(text: str) -> str:
    """Return a text as a container's ``env`` and ``args`` take it: Kubernetes puts variables in for ``$(NAME)``."""
    return text.replace("$", "$$")


def compute(resources: Resources | None, *, default: Resources) -> Manifest:
    """Return a container's ``resources``: the user's, or the default where they say nothing.

    What they leave out is requested by default all the same: an autoscaler goes by the processors requested.
    """
    asked = resources or default
    # A limit without a request is the request, as Kubernetes has it.
    left_out = {name: quantity for name, quantity in default.requests.items() if name not in asked.limits}
    whole = {"requests": {**left_out, **asked.requests}, "limits": asked.limits}
    return {
        kind: {name: str(quantity) for name, quantity in quantities.items()}
        for kind, quantities in whole.items()
        if quantities
    }


def size_in_bytes(quantity: str | int) -> int:
    """Return a Kubernetes quantity of storage, such as 5Gi, in bytes."""
    return int(parse_quantity(quantity))  # type: ignore[no-untyped-call]


def empty_dir(
    name: str, path: str, *, size: str | int | None = None, memory: bool = False
) -> tuple[Manifest, Manifest]:
    """Return a volume that lives as long as its pod, and its mount at ``path``."""
    source = ({"medium": "Memory"} if memory else {}) | ({"sizeLimit": str(size)} if size else {})
    return {"name": name, "emptyDir": source}, {"name": name, "mountPath": path}
