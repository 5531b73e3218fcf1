"""The pod that packs a kit."""

from __future__ import annotations

import secrets
from typing import Any

from kubectl_bloomery.kubectl import Manifest
from kubectl_bloomery.temporary_pod import LIFETIME_SECONDS

_OF_POD = ("securityContext", "imagePullSecrets", "serviceAccountName", "nodeSelector", "tolerations")
_OF_CONTAINER = ("env", "envFrom", "imagePullPolicy", "securityContext")
_RESOURCES = {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}}


def build_pod(owner: Manifest, deployment: Manifest, image: str) -> dict[str, Any]:
    """Return a pod that waits to be told to pack; it may and knows what the serving pods may and know.

    Args:
        owner: the InferenceService, with which the pod goes at the latest.
    """
    template = deployment["spec"]["template"]["spec"]
    server = template["containers"][0]
    container = {
        "name": "kit",
        "image": image,
        "command": ["sleep", str(LIFETIME_SECONDS)],
        "resources": _RESOURCES,
        "volumeMounts": [{"name": "scratch", "mountPath": "/tmp"}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": _metadata(owner),
        "spec": {key: template[key] for key in _OF_POD if key in template}
        | {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "restartPolicy": "Never",
            "activeDeadlineSeconds": LIFETIME_SECONDS,
            "terminationGracePeriodSeconds": 0,
            "containers": [container | {key: server[key] for key in _OF_CONTAINER if key in server}],
            "volumes": [{"name": "scratch", "emptyDir": {}}],
        },
    }


def _metadata(owner: Manifest) -> dict[str, Any]:
    metadata = owner["metadata"]
    reference = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": metadata["name"],
        "uid": metadata["uid"],
    }
    return {
        # A random end, as two people may fetch kits at a time.
        "name": f"{metadata['name']}-kit-{secrets.token_hex(3)}",
        "namespace": metadata["namespace"],
        "labels": {"app.kubernetes.io/name": "kit", "app.kubernetes.io/instance": metadata["name"]},
        "ownerReferences": [reference],
    }
