"""Manifest of a pod with the rights and credentials of a service's pods: it packs a kit, or reads captures."""

from __future__ import annotations

import secrets
from typing import Any

from kubectl_bloomery.cluster.kubectl import Manifest
from kubectl_bloomery.cluster.temporary_pod import DEFAULT_CONTAINER, LIFETIME_SECONDS

CA_VOLUME = "trusted-cas"
"""The volume with the certificates of private CAs, in the operator's pods too."""

_COPIED_POD_FIELDS = ("securityContext", "imagePullSecrets", "serviceAccountName", "nodeSelector", "tolerations")
_COPIED_CONTAINER_FIELDS = ("env", "envFrom", "imagePullPolicy", "securityContext")
_RESOURCES = {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}}


def build_server_pod(
    owner: Manifest, deployment: Manifest, *, purpose: str, image: str | None = None
) -> dict[str, Any]:
    """Build a pod that sleeps until a command runs in it, with the rights and credentials of the serving pods.

    Args:
        owner: the InferenceService; the pod is deleted with it at the latest.
        deployment: the Deployment whose pods serve the model.
        purpose: of the pod, in its name and its labels: network policies know kit and captures.
        image: the image; None: that of the serving pods.
    """
    template = deployment["spec"]["template"]["spec"]
    server = template["containers"][0]
    container = {
        "name": purpose,
        "image": image or server["image"],
        "command": ["sleep", str(LIFETIME_SECONDS)],
        "resources": _RESOURCES,
        "volumeMounts": [{"name": "scratch", "mountPath": "/tmp"}, *_certificates(server.get("volumeMounts"))],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": _build_metadata(owner, purpose),
        "spec": {key: template[key] for key in _COPIED_POD_FIELDS if key in template}
        | {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "restartPolicy": "Never",
            "activeDeadlineSeconds": LIFETIME_SECONDS,
            "terminationGracePeriodSeconds": 0,
            "containers": [
                container
                | {key: server[key] for key in _COPIED_CONTAINER_FIELDS if key in server}
                | {"env": _with_present_texts(owner, server.get("env", []))}
            ],
            "volumes": [{"name": "scratch", "emptyDir": {}}, *_certificates(template.get("volumes"))],
        },
    }


def _with_present_texts(owner: Manifest, env: list[Manifest]) -> list[Manifest]:
    """Return the variables with the service's texts as they are now: a change of them restarts no serving pod."""
    texts = {"DISPLAY_NAME": owner["spec"].get("displayName"), "DESCRIPTION": owner["spec"].get("description")}
    others = [entry for entry in env if entry["name"] not in texts]
    # Kubernetes expands $(NAME) in a value.
    return [*others, *({"name": n, "value": text.replace("$", "$$")} for n, text in texts.items() if text)]


def _certificates(entries: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    """Return the volume, or the mount, of the certificates of private CAs."""
    return [entry for entry in entries or () if entry["name"] == CA_VOLUME]


def _build_metadata(owner: Manifest, purpose: str) -> dict[str, Any]:
    metadata = owner["metadata"]
    reference = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": metadata["name"],
        "uid": metadata["uid"],
    }
    return {
        # The random suffix allows two people to run the same command at the same time.
        "name": f"{metadata['name']}-{purpose}-{secrets.token_hex(3)}",
        "namespace": metadata["namespace"],
        "labels": {"app.kubernetes.io/name": purpose, "app.kubernetes.io/instance": metadata["name"]},
        "annotations": {DEFAULT_CONTAINER: purpose},
        "ownerReferences": [reference],
    }
