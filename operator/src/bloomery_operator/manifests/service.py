"""Services: one for each revision, an alias without a gateway, and the headless one of a training's pods."""

from __future__ import annotations

from bloomery_operator.api import InferenceService
from bloomery_operator.api.base import Manifest
from bloomery_operator.api.custom_resource import CustomResource
from bloomery_operator.api.inferenceservice import Variant
from bloomery_operator.domain.labels import NAME, REVISION, SERVE_ROLE, child_labels, variant_labels
from bloomery_operator.domain.names import job_name
from bloomery_operator.domain.ports import COMPARE_PORT, COMPARE_PORT_NAME, METRICS_PORT, RENDEZVOUS_PORT, SERVICE_PORT
from bloomery_operator.domain.served_model import ServedModel, revision_name
from bloomery_operator.manifests.metadata import child_metadata


def build_service(service: InferenceService, variant: Variant, model: ServedModel) -> Manifest:
    """Return the Service of a revision's pods, which is its backend on the route."""
    name = revision_name(service, variant, model)
    return _revision_service(service, name, name, variant_labels(service, variant))


def build_service_alias(service: InferenceService, revision: str) -> Manifest:
    """Return the Service with the InferenceService's name, which selects one revision if there is no gateway."""
    return _revision_service(service, service.metadata.name, revision, child_labels(service, role=SERVE_ROLE))


def _revision_service(service: InferenceService, name: str, revision: str, labels: dict[str, str]) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": child_metadata(service, name=name, role=SERVE_ROLE) | {"labels": labels},
        "spec": {
            "selector": {NAME: SERVE_ROLE, REVISION: revision},
            "ports": [
                {"name": "http", "port": SERVICE_PORT, "targetPort": "http", "protocol": "TCP"},
                {"name": "metrics", "port": METRICS_PORT, "targetPort": "metrics", "protocol": "TCP"},
                {"name": COMPARE_PORT_NAME, "port": COMPARE_PORT, "targetPort": COMPARE_PORT_NAME, "protocol": "TCP"},
            ],
        },
    }


def build_peers_service(owner: CustomResource, command: str) -> Manifest:
    """Return the headless Service that gives a Job's pods DNS names: ``JOB-0.JOB`` and so on."""
    name = job_name(owner, command)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": child_metadata(owner, name=name, role=command),
        "spec": {
            "clusterIP": "None",
            # The pods connect before any of them is ready.
            "publishNotReadyAddresses": True,
            "selector": {"batch.kubernetes.io/job-name": name},
            "ports": [{"name": "rendezvous", "port": RENDEZVOUS_PORT, "protocol": "TCP"}],
        },
    }
