"""Manifest of the pod that lists weights in the store and adds files to them."""

from __future__ import annotations

import secrets
from typing import Any

from kubectl_bloomery.cluster.installation import Installation
from kubectl_bloomery.cluster.server_pod import CA_VOLUME
from kubectl_bloomery.cluster.temporary_pod import DEFAULT_CONTAINER, LIFETIME_SECONDS

_CONTAINER = "weights"
_RESOURCES = {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "3Gi"}}
_USER_ID = 10001
_CA_FOLDER = "/etc/bloomery-ca"


def build_weights_pod(installation: Installation) -> dict[str, Any]:
    """Build a pod of the trainer's image that sleeps until a command runs in it, with the store's keys."""
    mounts, volumes = _certificates(installation)
    container = {
        "name": _CONTAINER,
        "image": installation.trainer_image,
        "imagePullPolicy": installation.pull_policy,
        "command": ["sleep", str(LIFETIME_SECONDS)],
        "envFrom": [{"secretRef": {"name": installation.storage_secret}}],
        "env": [{"name": name, "value": value} for name, value in _environment(installation).items()],
        "resources": _RESOURCES,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "scratch", "mountPath": "/tmp"}, *mounts],
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
            "volumes": [{"name": "scratch", "emptyDir": {}}, *volumes],
        },
    }


def _environment(installation: Installation) -> dict[str, str]:
    trust = {"BLOOMERY_CA_FOLDER": _CA_FOLDER} if installation.ca_config_map else {}
    return {"HOME": "/tmp", **installation.proxies, **trust}


def _certificates(installation: Installation) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the mount and the volume of the certificates of private CAs, as the operator's pods have them."""
    if not installation.ca_config_map:
        return [], []
    source = {"name": installation.ca_config_map, "optional": True}
    return (
        [{"name": CA_VOLUME, "mountPath": _CA_FOLDER, "readOnly": True}],
        [{"name": CA_VOLUME, "configMap": source}],
    )
