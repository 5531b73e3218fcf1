"""TensorBoard of a training: a Deployment that mirrors the curves from the store, and its Service."""

from __future__ import annotations

from bloomery_operator.api import TrainingJob
from bloomery_operator.api.base import Manifest, Resources
from bloomery_operator.domain.labels import TENSORBOARD_ROLE, child_labels, service_selector
from bloomery_operator.domain.names import TENSORBOARD_CONTAINER, tensorboard_name
from bloomery_operator.domain.ports import TENSORBOARD_PORT
from bloomery_operator.manifests.metadata import child_metadata
from bloomery_operator.manifests.network import with_network
from bloomery_operator.manifests.pinned_template import record_template
from bloomery_operator.manifests.pod import (
    container_resources,
    credentials,
    empty_dir,
    escape_dollar,
    restricted_container,
    restricted_pod,
    set_fields,
    with_pod_template,
)
from bloomery_operator.manifests.train_job import output_uri
from bloomery_operator.settings import Settings

_DEFAULT_RESOURCES = Resources(requests={"cpu": "50m", "memory": "256Mi"}, limits={"memory": "1Gi"})


def build_tensorboard(job: TrainingJob, settings: Settings) -> tuple[Manifest, Manifest]:
    """Return the Deployment and the Service; both are removed with the job."""
    name, selector = tensorboard_name(job), service_selector(job, role=TENSORBOARD_ROLE)
    # It runs on the nodes that take the training.
    template = {
        "metadata": {"labels": child_labels(job, role=TENSORBOARD_ROLE)},
        "spec": _pod_spec(job, settings),
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": child_metadata(job, name=name, role=TENSORBOARD_ROLE),
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": selector},
            "strategy": {"type": "Recreate"},
            "template": with_pod_template(template, job.spec.pod_template),
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": child_metadata(job, name=name, role=TENSORBOARD_ROLE),
        "spec": {
            "selector": selector,
            "ports": [{"name": "http", "port": TENSORBOARD_PORT, "targetPort": "http", "protocol": "TCP"}],
        },
    }
    return record_template(deployment, {"podTemplate": set_fields(job.spec.pod_template)}), service


def _pod_spec(job: TrainingJob, settings: Settings) -> Manifest:
    volume, mount = empty_dir("scratch", "/tmp", size="2Gi")
    container = restricted_container() | {
        "name": TENSORBOARD_CONTAINER,
        "image": settings.trainer_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["python", "-m", "bloomery_trainer"],
        "args": [TENSORBOARD_ROLE, escape_dollar(output_uri(job, settings)), "--port", str(TENSORBOARD_PORT)],
        "envFrom": [credentials(settings.storage_secret)],
        "env": [{"name": "HOME", "value": "/tmp"}],
        "ports": [{"name": "http", "containerPort": TENSORBOARD_PORT}],
        "resources": container_resources(None, default=_DEFAULT_RESOURCES),
        "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 2, "timeoutSeconds": 5},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [mount],
    }
    return with_network(restricted_pod(settings) | {"containers": [container], "volumes": [volume]}, settings)
