"""Labels, annotations and roles of the operator's child objects."""

from __future__ import annotations

from bloomery_operator.api import InferenceService
from bloomery_operator.api.custom_resource import CustomResource
from bloomery_operator.api.inferenceservice import Variant

MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "bloomery"
SELECTOR = f"{MANAGED_BY}={MANAGER}"
"""Label selector of every child object."""
NAME = "app.kubernetes.io/name"
INSTANCE = "app.kubernetes.io/instance"

SERVE_ROLE = "serve"
TENSORBOARD_ROLE = "tensorboard"
PREDICT_ROLE = "predict"

VARIANT = "bloomery.dev/variant"
"""Label: the variant of a Deployment and of its pods."""
REVISION = "bloomery.dev/revision"
"""Label: the revision of a pod."""

SPEC_HASH = "bloomery.dev/spec-hash"
"""Annotation of a Job: the hash of the task that it runs. Of a Deployment: of the user's input to its pod template."""
POD_TEMPLATE = "bloomery.dev/pod-template"
"""Annotation of a Deployment: its pod template as JSON, which it keeps while the user's input stays the same."""
REFRESH = "bloomery.dev/refresh"
"""Annotation of a Dataset or an InferenceService: a new value prepares it, or creates its pods, again."""
RETIRED_AT = "bloomery.dev/retired-at"
"""Annotation of a Deployment: when it stopped being needed."""
AUTOSCALED = "bloomery.dev/autoscaled"
"""Annotation of a Deployment that has a HorizontalPodAutoscaler."""
SERVED_TAG = "bloomery.dev/served-tag"
"""Annotation of a Deployment: the served-by tag last written to its model version in MLflow."""
MODEL_SOURCE = "bloomery.dev/model-source"
"""Annotation of a Deployment: the hash of the variant's model source."""
MODEL = "bloomery.dev/model"
"""Annotation of a Deployment, or of a batch prediction's Job: the resolved model as JSON."""
KIT_IMAGE = "bloomery.dev/kit-image"
"""Annotation of a Deployment: the image of its offline kit."""
DATASETS = "bloomery.dev/datasets"
"""Annotation of a training Job: the dataset versions as JSON."""
INITIAL_MODEL = "bloomery.dev/initial-model"
"""Annotation of a training Job: the origin of its starting point."""
STARTED_AT = "bloomery.dev/started-at"
"""Annotation of an InferenceService that restarts it after ``autoStop``: the time of the start (RFC 3339)."""
APPROVED = "bloomery.dev/approved"
"""Annotation of an InferenceService that lets a rollout go on: the generation and the percentage, such as 3/50."""
TRIGGER = "bloomery.dev/trigger"
"""Annotation of a Retraining's TrainingJob: its trigger as JSON. Tag in MLflow: the cause in words."""
QUEUE = "kueue.x-k8s.io/queue-name"
"""Label of a Job that Kueue admits."""


def child_labels(owner: CustomResource, *, role: str) -> dict[str, str]:
    """Return the labels of a child; ``role`` is its purpose, such as train or serve."""
    return {
        MANAGED_BY: MANAGER,
        NAME: role,
        INSTANCE: owner.metadata.name,
        owner.OWNER_LABEL: owner.metadata.name,
    }


def service_selector(owner: CustomResource, *, role: str) -> dict[str, str]:
    """Return the labels that select all pods of an owner in a role."""
    return {NAME: role, owner.OWNER_LABEL: owner.metadata.name}


def variant_labels(service: InferenceService, variant: Variant) -> dict[str, str]:
    """Return the labels of a variant's objects."""
    return child_labels(service, role=SERVE_ROLE) | {VARIANT: variant.name}
