"""The pod that reads and writes the store's folder of weights."""

from __future__ import annotations

import secrets
from typing import Any

from kubectl_bloomery.installation import Installation
from kubectl_bloomery.temporary_pod import LIFETIME_SECONDS

_RESOURCES = {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "3Gi"}}
_USER_ID = 10001


def build_pod(installation: Installation) -> dict[str, Any]:
    """Return a pod of the trainer's image, with the store's keys of its namespace, that waits to be told what to do."""
    container = {
        "name": "weights",
        "image": installation.trainer_image,
        "imagePullPolicy": installation.pull_policy,
        "command": ["sleep", str(LIFETIME_SECONDS)],
        "envFrom": [{"secretRef": {"name": installation.storage_secret}}],
        "env": [{"name": "HOME", "value": "/tmp"}],
        "resources": _RESOURCES,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "scratch", "mountPath": "/tmp"}],
    }
    labels = {"app.kubernetes.io/name": "weights", "app.kubernetes.io/instance": installation.release}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        # A random end, as two people may push at a time.
        "metadata": {"name": f"bloomery-weights-{secrets.token_hex(3)}", "labels": labels},
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "restartPolicy": "Never",
            "activeDeadlineSeconds": LIFETIME_SECONDS,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": _USER_ID,
                "runAsGroup": _USER_ID,
                "fsGroup": _USER_ID,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": [{"name": "scratch", "emptyDir": {}}],
        },
    }
