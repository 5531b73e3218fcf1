"""One model revision of a variant: its Deployment, and the Service that is its backend on the route."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from bloomery_operator.api import InferenceService
from bloomery_operator.api.common import Manifest, Resources
from bloomery_operator.api.inferenceservice import Variant
from bloomery_operator.resources.keys import digests_secret_name
from bloomery_operator.resources.metadata import VARIANT, child_metadata, digest_of, labels_of
from bloomery_operator.resources.pods import (
    compute,
    credentials,
    empty_dir,
    restricted_container,
    restricted_pod,
)
from bloomery_operator.settings import Settings

ROLE = "serve"
PORT = 8080
METRICS_PORT = 9090
KEYS_FOLDER = "/etc/bloomery/keys"
MODEL_FOLDER = "/models"
DRAIN_SECONDS = 10
"""A stopping pod keeps answering that long, until every proxy has taken it off its list."""
_SOURCE = "bloomery.dev/model-source"
_MODEL = "bloomery.dev/model"
DEFAULT_RESOURCES = Resources(requests={"cpu": "100m", "memory": "512Mi"}, limits={"memory": "2Gi"})


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A resolved model: where its folder is, and where it comes from."""

    uri: str
    digest: str | None = None
    name: str | None = None
    version: str | None = None
    run_id: str | None = None
    training_job: str | None = None
    dataset: str | None = None
    dataset_version: str | None = None

    @property
    def display(self) -> str:
        """Short form for people: ``flowers/4``, or the folder."""
        return f"{self.name}/{self.version}" if self.name and self.version else self.uri


def revision_name(service: InferenceService, variant: Variant, model: ServedModel) -> str:
    """Return the name of a variant's revision; another model is another revision beside the old one."""
    revision = digest_of([model.uri, model.digest], length=8)
    return f"{service.metadata.name}--{variant.name}-{revision}"


def build_deployment(service: InferenceService, variant: Variant, model: ServedModel, settings: Settings) -> Manifest:
    """Return the Deployment of one revision."""
    name = revision_name(service, variant, model)
    labels = _labels(service, variant)
    selector = {"app.kubernetes.io/name": ROLE, "bloomery.dev/revision": name}
    metadata = child_metadata(service, name=name, role=ROLE, annotations=_record(variant, model))
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata | {"labels": labels},
        "spec": {
            "replicas": service.replicas_of(variant),
            "selector": {"matchLabels": selector},
            # A new pod is ready before an old one goes, so an update loses no request.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {
                "metadata": {"labels": labels | selector},
                "spec": _pod_spec(service, variant, model, settings),
            },
        },
    }


def build_service(service: InferenceService, variant: Variant, model: ServedModel) -> Manifest:
    """Return the Service in front of one revision's pods."""
    name = revision_name(service, variant, model)
    metadata = child_metadata(service, name=name, role=ROLE)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata | {"labels": _labels(service, variant)},
        "spec": {
            "selector": {"app.kubernetes.io/name": ROLE, "bloomery.dev/revision": name},
            "ports": [
                {"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"},
                {"name": "metrics", "port": METRICS_PORT, "targetPort": "metrics", "protocol": "TCP"},
            ],
        },
    }


def recorded_model(variant: Variant, annotations: Mapping[str, str]) -> ServedModel | None:
    """Return the model that a Deployment was made for, if the variant still asks for it in the same words.

    What was resolved once stays: a TrainingJob that its TTL removed takes no model off the air.
    """
    if annotations.get(_SOURCE) != digest_of(variant.model.to_json()):
        return None
    return ServedModel(**json.loads(annotations[_MODEL]))


def _record(variant: Variant, model: ServedModel) -> dict[str, str]:
    return {
        _SOURCE: digest_of(variant.model.to_json()),
        _MODEL: json.dumps({key: value for key, value in asdict(model).items() if value is not None}),
    }


def pod_selector(service: InferenceService) -> str:
    """Return the label selector of all the service's pods, as ``/scale`` reports it."""
    labels = labels_of(service, role=ROLE)
    keys = ("app.kubernetes.io/name", service.OWNER_LABEL)
    return ",".join(f"{key}={labels[key]}" for key in keys)


def _labels(service: InferenceService, variant: Variant) -> dict[str, str]:
    return labels_of(service, role=ROLE) | {VARIANT: variant.name}


def _pod_spec(service: InferenceService, variant: Variant, model: ServedModel, settings: Settings) -> Manifest:
    models_volume, models_mount = empty_dir("models", MODEL_FOLDER)
    scratch_volume, scratch_mount = empty_dir("scratch", "/tmp")
    volumes, mounts = [models_volume, scratch_volume], [models_mount, scratch_mount]
    if service.spec.auth == "ApiKey":
        volumes.append({"name": "keys", "secret": {"secretName": digests_secret_name(service)}})
        # The folder as a whole: a subPath mount would never see a rotated key.
        mounts.append({"name": "keys", "mountPath": KEYS_FOLDER, "readOnly": True})
    container = restricted_container() | {
        "name": "server",
        "image": settings.serving_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["python", "-m", "bloomery_serving"],
        "env": _environment(service, variant, model),
        "envFrom": [credentials(settings.storage_secret)],
        "ports": [
            {"name": "http", "containerPort": PORT},
            {"name": "metrics", "containerPort": METRICS_PORT},
        ],
        "resources": compute(variant.resources, default=DEFAULT_RESOURCES),
        "lifecycle": {"preStop": {"sleep": {"seconds": DRAIN_SECONDS}}},
        "startupProbe": _probe("ready", period=1, failures=600),
        "readinessProbe": _probe("ready", period=2, failures=2),
        "livenessProbe": _probe("live", period=10, failures=6),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    }
    return restricted_pod() | {
        "terminationGracePeriodSeconds": 90,
        "containers": [container],
        "volumes": volumes,
    }


def _probe(what: str, *, period: int, failures: int) -> Manifest:
    return {
        "httpGet": {"path": f"/v2/health/{what}", "port": "http"},
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _environment(service: InferenceService, variant: Variant, model: ServedModel) -> list[Manifest]:
    values = {
        "MODEL_URI": model.uri,
        "MODEL_DIGEST": model.digest,
        "MODEL_DIR": MODEL_FOLDER,
        "SERVICE_NAME": service.metadata.name,
        "SERVICE_NAMESPACE": service.metadata.namespace,
        "VARIANT": variant.name,
        "MODEL_NAME": model.name,
        "MODEL_VERSION": model.version,
        "RUN_ID": model.run_id,
        "TRAINING_JOB": model.training_job,
        "DATASET_NAME": model.dataset,
        "DATASET_VERSION": model.dataset_version,
        "API_KEYS_DIR": KEYS_FOLDER if service.spec.auth == "ApiKey" else None,
        "PORT": str(PORT),
        "METRICS_PORT": str(METRICS_PORT),
        "HOME": "/tmp",
    }
    return [{"name": name, "value": value} for name, value in values.items() if value]
