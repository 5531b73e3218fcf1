"""Paths and answers of the Kubernetes API."""

from __future__ import annotations

from typing import Any

import httpx

Manifest = dict[str, Any]

PATHS = {
    "datasets": "apis/bloomery.dev/v1alpha1",
    "trainingjobs": "apis/bloomery.dev/v1alpha1",
    "batchpredictions": "apis/bloomery.dev/v1alpha1",
    "retrainings": "apis/bloomery.dev/v1alpha1",
    "inferenceservices": "apis/bloomery.dev/v1alpha1",
    "jobs": "apis/batch/v1",
    "deployments": "apis/apps/v1",
    "replicasets": "apis/apps/v1",
    "horizontalpodautoscalers": "apis/autoscaling/v2",
    "poddisruptionbudgets": "apis/policy/v1",
    "httproutes": "apis/gateway.networking.k8s.io/v1",
    "backendtrafficpolicies": "apis/gateway.envoyproxy.io/v1alpha1",
    "pods": "api/v1",
    "configmaps": "api/v1",
    "secrets": "api/v1",
    "services": "api/v1",
    "events": "api/v1",
}


class Gone(AssertionError):
    """An object does not exist, or no longer exists."""


def condition_of(manifest: Manifest | None, type_: str) -> Manifest:
    """Return an object's condition of a type, empty if it has none."""
    conditions = (manifest or {}).get("status", {}).get("conditions", [])
    return next((c for c in conditions if c["type"] == type_), {})


def remove_all_of_ours(client: httpx.Client) -> None:
    """Delete every object of our kinds in the cluster, so that the next operator has no work."""
    # Retrainings first: they make TrainingJobs.
    for plural in ("retrainings", "datasets", "trainingjobs", "inferenceservices", "batchpredictions"):
        root = f"/{PATHS[plural]}"
        for item in checked(client.get(f"{root}/{plural}"))["items"]:
            metadata = item["metadata"]
            client.delete(f"{root}/namespaces/{metadata['namespace']}/{plural}/{metadata['name']}")


def checked(response: httpx.Response) -> Manifest:
    """Return the answer's document; fail with the API server's message."""
    message = f"{response.request.method} {response.request.url}: {response.text}"
    if response.status_code == 404:
        raise Gone(message)
    assert response.is_success, message
    document: Manifest = response.json()
    return document
