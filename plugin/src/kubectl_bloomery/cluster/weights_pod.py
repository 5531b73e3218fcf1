"""Manifest of the pod that lists weights in the store and adds files to them."""

from __future__ import annotations

import secrets
from typing import Any

from kubectl_bloomery.cluster.installation import Installation
from kubectl_bloomery.cluster.temporary_pod import DEFAULT_CONTAINER, LIFETIME_SECONDS

_CONTAINER = "weights"
_RESOURCES = {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "3Gi"}}
_USER_ID = 10001


def build_weights_pod(installation: Installation) -> dict[str, Any]:
    """Build a pod of the trainer's image that sleeps until a command runs in it, with the store's keys."""
    container = {
        "name": _CONTAINER,
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
    # A platform that gives each namespace a range of ids, as OpenShift does, refuses any other.
    ids = {} if installation.uses_platform_ids else dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"), _USER_ID)
    annotations = {DEFAULT_CONTAINER: _CONTAINER}
    labels = {"app.kubernetes.io/name": "weights", "app.kubernetes.io/instance": installation.release}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        # The random suffix allows two people to push at the same time.
        "metadata": {
            "name": f"bloomery-weights-{secrets.token_hex(3)}",
            "labels": labels,
            "annotations": annotations,
        },
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "restartPolicy": "Never",
            "activeDeadlineSeconds": LIFETIME_SECONDS,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsNonRoot": True, **ids, "seccompProfile": {"type": "RuntimeDefault"}},
            "imagePullSecrets": [{"name": name} for name in installation.pull_secrets],
            "containers": [container],
            "volumes": [{"name": "scratch", "emptyDir": {}}],
        },
    }
