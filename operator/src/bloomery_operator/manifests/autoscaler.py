"""HorizontalPodAutoscaler of a revision."""

from __future__ import annotations

from bloomery_operator.api import InferenceService
from bloomery_operator.api.base import Manifest
from bloomery_operator.api.inferenceservice import Variant
from bloomery_operator.domain.labels import SERVE_ROLE, variant_labels
from bloomery_operator.domain.served_model import ServedModel, revision_name
from bloomery_operator.manifests.metadata import child_metadata

CPU_UTILIZATION_PERCENT = 70
"""Share of the processors requested at which an autoscaler adds pods, unless the spec has metrics of its own."""


def build_autoscaler(service: InferenceService, variant: Variant, model: ServedModel) -> Manifest | None:
    """Return the HorizontalPodAutoscaler of a revision, if its variant has ``autoscaling``."""
    scaling = variant.autoscaling
    if scaling is None:
        return None
    name = revision_name(service, variant, model)
    utilization = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": CPU_UTILIZATION_PERCENT}}
    metadata = child_metadata(service, name=name, role=SERVE_ROLE)
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": metadata | {"labels": variant_labels(service, variant)},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "minReplicas": scaling.min,
            "maxReplicas": scaling.max,
            "metrics": list(scaling.metrics) or [{"type": "Resource", "resource": utilization}],
        },
    }
