"""A TensorBoard for a training: a Deployment that mirrors the curves from the store, and its Service."""

from __future__ import annotations

from bloomery_operator.api import TrainingJob
from bloomery_operator.api.common import Manifest, Resources
from bloomery_operator.resources.metadata import child_metadata, labels_of
from bloomery_operator.resources.pods import (
    compute,
    credentials,
    empty_dir,
    literal,
    restricted_container,
    restricted_pod,
)
from bloomery_operator.resources.train import output_uri
from bloomery_operator.settings import Settings

ROLE = "tensorboard"
PORT = 6006
_RESOURCES = Resources(requests={"cpu": "50m", "memory": "256Mi"}, limits={"memory": "1Gi"})


def tensorboard_name(job: TrainingJob) -> str:
    """Return the name of the Deployment and the Service."""
    return f"{job.metadata.name}-{ROLE}"


def how_to_open(job: TrainingJob) -> str:
    """Return what a person does to see it: it has no address outside of the cluster."""
    name, namespace = tensorboard_name(job), job.metadata.namespace
    return f"kubectl port-forward --namespace {namespace} service/{name} {PORT}:{PORT}, then http://127.0.0.1:{PORT}"


def build_tensorboard(job: TrainingJob, settings: Settings) -> tuple[Manifest, Manifest]:
    """Return the Deployment and the Service; both go with the job."""
    name, labels = tensorboard_name(job), labels_of(job, role=ROLE)
    selector = {key: labels[key] for key in ("app.kubernetes.io/name", job.OWNER_LABEL)}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": child_metadata(job, name=name, role=ROLE),
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": selector},
            "strategy": {"type": "Recreate"},
            "template": {"metadata": {"labels": labels}, "spec": _pod_spec(job, settings)},
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": child_metadata(job, name=name, role=ROLE),
        "spec": {
            "selector": selector,
            "ports": [{"name": "http", "port": PORT, "targetPort": "http", "protocol": "TCP"}],
        },
    }
    return deployment, service


def _pod_spec(job: TrainingJob, settings: Settings) -> Manifest:
    volume, mount = empty_dir("scratch", "/tmp", size="2Gi")
    container = restricted_container() | {
        "name": ROLE,
        "image": settings.trainer_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["python", "-m", "bloomery_trainer"],
        "args": [ROLE, literal(output_uri(job, settings)), "--port", str(PORT)],
        "envFrom": [credentials(settings.storage_secret)],
        "env": [{"name": "HOME", "value": "/tmp"}],
        "ports": [{"name": "http", "containerPort": PORT}],
        "resources": compute(None, default=_RESOURCES),
        "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 2, "timeoutSeconds": 5},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [mount],
    }
    return restricted_pod() | {"containers": [container], "volumes": [volume]}
