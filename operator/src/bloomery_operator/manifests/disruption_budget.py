"""PodDisruptionBudget of a service."""

from __future__ import annotations

from bloomery_operator.api import InferenceService
from bloomery_operator.api.base import Manifest
from bloomery_operator.domain.labels import SERVE_ROLE, service_selector
from bloomery_operator.manifests.metadata import child_metadata


def build_disruption_budget(service: InferenceService) -> Manifest:
    """Return the PodDisruptionBudget by which a drained node evicts the service's pods one at a time."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": child_metadata(service, name=service.metadata.name, role=SERVE_ROLE),
        "spec": {
            # Not minAvailable: with one pod that would block every drain for ever.
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": service_selector(service, role=SERVE_ROLE)},
        },
    }
