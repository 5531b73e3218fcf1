"""One model revision of a variant: its Deployment, the Service that is its backend on the route, its autoscaler."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from pydantic import TypeAdapter, ValidationError

from bloomery_operator.api import InferenceService
from bloomery_operator.api.common import Manifest, Resources
from bloomery_operator.api.inferenceservice import Variant, VariantStatus
from bloomery_operator.resources.keys import digests_secret_name
from bloomery_operator.resources.metadata import AUTOSCALED, REVISION, VARIANT, child_metadata, digest_of, labels_of
from bloomery_operator.resources.pods import (
    compute,
    credentials,
    empty_dir,
    literal,
    overlaid,
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
_KIT_IMAGE = "bloomery.dev/kit-image"
_DIGEST = "digest"
_GPU = "nvidia.com/gpu"
_LONGEST_NAME = 63
"""Of a Service, and of a label's value (RFC 1123)."""
CPU_UTILIZATION = 70
"""Percent of the processors requested at which an autoscaler adds pods, unless the spec has metrics of its own."""
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


_RECORD = TypeAdapter(ServedModel)


def revision_name(service: InferenceService, variant: Variant, model: ServedModel) -> str:
    """Return the name of a variant's revision; another model is another revision beside the old one."""
    stem = f"{service.metadata.name}--{variant.name}"
    # The longest names do not fit in full, so the hash holds them too.
    revision = digest_of([stem, model.uri, model.digest], length=8)
    return f"{stem[: _LONGEST_NAME - len(revision) - 1].rstrip('-')}-{revision}"


def build_deployment(
    service: InferenceService, variant: Variant, model: ServedModel, settings: Settings, *, replicas: int | None
) -> Manifest:
    """Return the Deployment of one revision; without ``replicas`` an autoscaler decides on them."""
    name = revision_name(service, variant, model)
    labels = _labels(service, variant)
    selector = {"app.kubernetes.io/name": ROLE, REVISION: name}
    annotations = _record(variant, model)
    annotations |= {_KIT_IMAGE: settings.kit_image} if settings.kit_image else {}
    annotations |= {AUTOSCALED: "true"} if variant.autoscaling else {}
    metadata = child_metadata(service, name=name, role=ROLE, annotations=annotations)
    template = {"metadata": {"labels": labels | selector}, "spec": _pod_spec(service, variant, model, settings)}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata | {"labels": labels},
        "spec": ({} if replicas is None else {"replicas": replicas})
        | {
            "selector": {"matchLabels": selector},
            # A new pod is ready before an old one goes, so an update loses no request.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": overlaid(template, variant.pod_template),
        },
    }


def build_autoscaler(service: InferenceService, variant: Variant, model: ServedModel) -> Manifest | None:
    """Return the HorizontalPodAutoscaler of one revision, where its variant asks for one."""
    scaling = variant.autoscaling
    if scaling is None:
        return None
    name = revision_name(service, variant, model)
    utilization = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": CPU_UTILIZATION}}
    metadata = child_metadata(service, name=name, role=ROLE)
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": metadata | {"labels": _labels(service, variant)},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "minReplicas": scaling.min,
            "maxReplicas": scaling.max,
            "metrics": list(scaling.metrics) or [{"type": "Resource", "resource": utilization}],
        },
    }


def build_disruption_budget(service: InferenceService) -> Manifest:
    """Return the PodDisruptionBudget that lets a drained node take the service's pods one at a time."""
    selector = {key: value for key, value in labels_of(service, role=ROLE).items() if key in _selecting(service)}
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": child_metadata(service, name=service.metadata.name, role=ROLE),
        "spec": {
            # Not minAvailable: with one pod that would block every drain for ever.
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": selector},
        },
    }


def build_pin(service: InferenceService, variant: Variant, model: ServedModel, digest: str) -> Manifest:
    """Return the ConfigMap that holds the digest of a model that came without one, as its first pod found it.

    Pods read it when they start, so that all that come later serve the same bytes, and no pod restarts for it.
    """
    name = revision_name(service, variant, model)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": child_metadata(service, name=name, role=ROLE),
        "immutable": True,
        "data": {_DIGEST: digest},
    }


def build_service(service: InferenceService, variant: Variant, model: ServedModel) -> Manifest:
    """Return the Service in front of one revision's pods."""
    name = revision_name(service, variant, model)
    return _service(service, name, name, _labels(service, variant))


def build_front(service: InferenceService, revision: str) -> Manifest:
    """Return the Service that stands for the whole where there is no gateway; it leads to one revision."""
    return _service(service, service.metadata.name, revision, labels_of(service, role=ROLE))


def _service(service: InferenceService, name: str, revision: str, labels: dict[str, str]) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": child_metadata(service, name=name, role=ROLE) | {"labels": labels},
        "spec": {
            "selector": {"app.kubernetes.io/name": ROLE, REVISION: revision},
            "ports": [
                {"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"},
                {"name": "metrics", "port": METRICS_PORT, "targetPort": "metrics", "protocol": "TCP"},
            ],
        },
    }


def recorded_model(annotations: Mapping[str, str], variant: Variant | None = None) -> ServedModel | None:
    """Return the model that a Deployment was made for; with a variant, only if that asks for it in the same words.

    What was resolved once stays: a TrainingJob that its TTL removed takes no model off the air.
    """
    if variant is not None and annotations.get(_SOURCE) != model_hash(variant):
        return None
    try:
        return _RECORD.validate_json(annotations.get(_MODEL, ""))
    except ValidationError:
        # An edited annotation says nothing; what another operator added to it does no harm.
        return None


def noted_model(service: InferenceService, variant: Variant) -> ServedModel | None:
    """Return the model that the status notes for a variant, if that asks for it in the same words.

    It outlives a Deployment that somebody deletes.
    """
    noted = next((status for status in service.status.variants if status.name == variant.name), None)
    if noted is None or noted.uri is None or noted.model_hash != model_hash(variant):
        return None
    registered = (noted.model or "").rpartition("/") if noted.model != noted.uri else ("", "", "")
    model = replace(origin_of(noted), name=registered[0] or None, version=registered[2] or None)
    # The digest may be one that a pod found, which is not what the revision was named by.
    known = (model, replace(model, digest=None))
    return next((model for model in known if revision_name(service, variant, model) == noted.revision), None)


def origin_of(noted: VariantStatus) -> ServedModel:
    """Return what the status notes of a variant's model and where it comes from, but for its name in the registry."""
    return ServedModel(
        uri=noted.uri or "",
        digest=noted.digest,
        run_id=noted.run_id,
        training_job=noted.training_job,
        dataset=noted.dataset,
        dataset_version=noted.dataset_version,
    )


def model_hash(variant: Variant) -> str:
    """Return a hash of the words in which a variant asks for its model."""
    return digest_of(variant.model.to_json())


def _record(variant: Variant, model: ServedModel) -> dict[str, str]:
    return {
        _SOURCE: model_hash(variant),
        _MODEL: json.dumps({key: value for key, value in asdict(model).items() if value is not None}),
    }


def pod_selector(service: InferenceService) -> str:
    """Return the label selector of all the service's pods, as ``/scale`` reports it."""
    labels = labels_of(service, role=ROLE)
    return ",".join(f"{key}={labels[key]}" for key in _selecting(service))


def _selecting(service: InferenceService) -> tuple[str, str]:
    return ("app.kubernetes.io/name", service.OWNER_LABEL)


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
        "image": _image(variant, settings),
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
        "topologySpreadConstraints": _spread(revision_name(service, variant, model)),
        "containers": [container],
        "volumes": volumes,
    }


def _image(variant: Variant, settings: Settings) -> str:
    """Return the server's image: that with CUDA where the variant asks for a GPU."""
    limits = variant.resources.limits if variant.resources else {}
    return settings.serving_gpu_image if _GPU in limits and settings.serving_gpu_image else settings.serving_image


def _spread(revision: str) -> list[Manifest]:
    """Return the wish that nodes and zones share a revision's pods; a wish, so that one node is enough."""
    return [
        {
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {REVISION: revision}},
        }
        for key in ("kubernetes.io/hostname", "topology.kubernetes.io/zone")
    ]


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
        "DISPLAY_NAME": service.spec.display_name,
        "DESCRIPTION": service.spec.description,
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
    pin = {"name": revision_name(service, variant, model), "key": _DIGEST, "optional": True}
    pinned = [] if model.digest else [{"name": "MODEL_DIGEST", "valueFrom": {"configMapKeyRef": pin}}]
    return [{"name": name, "value": literal(value)} for name, value in values.items() if value] + pinned
