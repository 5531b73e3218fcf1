"""Parts that all pods share: Pod Security ``restricted``, resources, credentials, the user's pod template."""

from __future__ import annotations

from kubernetes.utils.quantity import parse_quantity

from bloomery_operator.api import InvalidResource
from bloomery_operator.api.base import Manifest, PodTemplate, Resources
from bloomery_operator.domain.pod_annotations import is_annotation_allowed
from bloomery_operator.settings import Settings

USER_ID = 10001
CONFIG_FOLDER = "/etc/bloomery"


def restricted_pod(settings: Settings) -> Manifest:
    """Return the pod-level fields that the ``restricted`` Pod Security standard requires, and the image's Secrets."""
    # A platform that gives each namespace a range of ids, as OpenShift does, refuses any other.
    ids = {} if settings.platform_ids else {"runAsUser": USER_ID, "runAsGroup": USER_ID, "fsGroup": USER_ID}
    secrets = [{"name": name} for name in settings.pull_secrets]
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        **({"imagePullSecrets": secrets} if secrets else {}),
        "securityContext": {"runAsNonRoot": True, **ids, "seccompProfile": {"type": "RuntimeDefault"}},
    }


def restricted_container() -> Manifest:
    """Return the container-level fields that the ``restricted`` Pod Security standard requires."""
    return {
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    }


def with_pod_template(template: Manifest, extra: PodTemplate | None) -> Manifest:
    """Return a pod template with the user's additions, which replace none of our labels and change no container."""
    if extra is None:
        return template
    metadata = template["metadata"] | {"labels": {**extra.labels, **template["metadata"]["labels"]}}
    # The CRDs refuse them too; an older object may still have some.
    annotations = {key: value for key, value in extra.annotations.items() if is_annotation_allowed(key)}
    if annotations:
        metadata["annotations"] = {**annotations, **metadata.get("annotations", {})}
    added = {f: value for f, value in extra.to_json().items() if value and f not in ("labels", "annotations")}
    if extra.tolerations:
        added["tolerations"] = [*template["spec"].get("tolerations", ()), *added["tolerations"]]
    return {"metadata": metadata, "spec": template["spec"] | added}


def set_fields(part: PodTemplate | Resources | None) -> Manifest:
    """Return the fields of a part of a spec that are set: a new field changes the hash of no stored object."""
    return {name: value for name, value in part.to_json().items() if value} if part is not None else {}


def credentials(secret: str, *, prefix: str = "") -> Manifest:
    """Return an ``envFrom`` entry: every key of the Secret becomes a variable with the prefix."""
    return ({"prefix": prefix} if prefix else {}) | {"secretRef": {"name": secret}}


def escape_dollar(text: str) -> str:
    """Escape a text for a container's ``env`` and ``args``, in which Kubernetes expands ``$(NAME)``."""
    return text.replace("$", "$$")


def container_resources(resources: Resources | None, *, default: Resources) -> Manifest:
    """Return a container's ``resources``: the user's, or the default if they set none.

    Default requests are added for what the user leaves out: an autoscaler needs the processors requested.
    """
    chosen = resources or default
    # A limit without a request is also the request, by Kubernetes' rules.
    missing = {name: quantity for name, quantity in default.requests.items() if name not in chosen.limits}
    complete = {"requests": {**missing, **chosen.requests}, "limits": chosen.limits}
    return {
        kind: {name: str(quantity) for name, quantity in quantities.items()}
        for kind, quantities in complete.items()
        if quantities
    }


def size_in_bytes(quantity: str | int) -> int:
    """Return a Kubernetes quantity of storage, such as 5Gi, in bytes.

    Raises:
        InvalidResource: it is no quantity.
    """
    try:
        return int(parse_quantity(quantity))  # type: ignore[no-untyped-call]
    except (TypeError, ValueError, AttributeError) as error:
        raise InvalidResource(f"{quantity!r} is not a quantity such as 5Gi") from error


def empty_dir(
    name: str, path: str, *, size: str | int | None = None, memory: bool = False
) -> tuple[Manifest, Manifest]:
    """Return an emptyDir volume, and its mount at ``path``."""
    source = ({"medium": "Memory"} if memory else {}) | ({"sizeLimit": str(size)} if size else {})
    return {"name": name, "emptyDir": source}, {"name": name, "mountPath": path}
