"""Envoy Gateway's BackendTrafficPolicy of a service: retries of requests that a pod lost."""

from __future__ import annotations

from bloomery_operator.api import InferenceService
from bloomery_operator.api.base import Manifest
from bloomery_operator.domain.labels import SERVE_ROLE
from bloomery_operator.manifests.metadata import child_metadata

MAX_RETRIES = 2
RETRY_TRIGGERS = ("connect-failure", "refused-stream", "reset")
"""A pod that is gone or breaks the connection without a response. A response of the pod, also 429 or 5xx, is final."""


def build_retry_policy(service: InferenceService) -> Manifest:
    """Return the policy that sends a request that a pod lost to another pod; predictions have no side effects.

    It is merged into a policy of the whole Gateway; without ``mergeType`` it would replace that one.
    """
    route = {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": service.metadata.name}
    return {
        "apiVersion": "gateway.envoyproxy.io/v1alpha1",
        "kind": "BackendTrafficPolicy",
        "metadata": child_metadata(service, name=service.metadata.name, role=SERVE_ROLE),
        "spec": {
            "targetRefs": [route],
            "mergeType": "StrategicMerge",
            "retry": {"numRetries": MAX_RETRIES, "retryOn": {"triggers": list(RETRY_TRIGGERS)}},
        },
    }
