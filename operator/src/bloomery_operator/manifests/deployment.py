"""Deployment of a revision: the model server's pods."""

from __future__ import annotations

from typing import Any

from bloomery_operator.api import InferenceService
from bloomery_operator.api.base import Manifest, Resources
from bloomery_operator.api.inferenceservice import Capture, Variant
from bloomery_operator.domain.labels import AUTOSCALED, KIT_IMAGE, NAME, REFRESH, REVISION, SERVE_ROLE, variant_labels
from bloomery_operator.domain.names import SERVER_CONTAINER, about_name, comparison_secret_name, digests_secret_name
from bloomery_operator.domain.ports import COMPARE_PORT, COMPARE_PORT_NAME, HTTP_PORT, METRICS_PORT
from bloomery_operator.domain.served_model import ServedModel, model_annotations, revision_name
from bloomery_operator.manifests.api_keys import COMPARISON_TOKEN_KEY
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
    size_in_bytes,
    with_pod_template,
)
from bloomery_operator.manifests.server import (
    DEFAULT_SCRATCH,
    MODEL_FOLDER,
    answer_environment,
    format_number,
    lineage_environment,
    server_image,
)
from bloomery_operator.settings import Settings

KEYS_FOLDER = "/etc/bloomery/keys"
ABOUT_FOLDER = "/etc/bloomery/about"
ABOUT_FILE_NAME = "about.json"
"""Key of the ConfigMap with a revision's texts."""
CAPTURE_PREFIX = "CAPTURE_STORE_"
"""Prefix of the variables of the captures' own Secret, beside those of the store's."""
DIGEST_KEY = "digest"
"""Key of the ConfigMap with the digest of a model that was named without one."""
DRAIN_SECONDS = 10
"""A terminating pod keeps serving this long, until every proxy has removed it from its endpoints."""
DEFAULT_RESOURCES = Resources(requests={"cpu": "100m", "memory": "512Mi"}, limits={"memory": "2Gi"})
_TEMPORARY_FILES = "2Gi"
"""Space for requests that are too large for memory; all of them together may have 256 MiB."""


def build_deployment(
    service: InferenceService, variant: Variant, model: ServedModel, settings: Settings, *, replicas: int | None
) -> Manifest:
    """Return the Deployment of a revision, with a record of its pod template.

    Without ``replicas``, an autoscaler sets them.
    """
    name = revision_name(service, variant, model)
    labels = variant_labels(service, variant)
    selector = {NAME: SERVE_ROLE, REVISION: name}
    annotations = model_annotations(variant, model)
    annotations |= {KIT_IMAGE: settings.kit_image} if settings.kit_image else {}
    annotations |= {AUTOSCALED: "true"} if variant.autoscaling else {}
    metadata = child_metadata(service, name=name, role=SERVE_ROLE, annotations=annotations)
    refresh = service.metadata.annotations.get(REFRESH)
    # In the template, a new value replaces the pods also where nothing else has changed.
    pod_metadata = {"labels": labels | selector} | ({"annotations": {REFRESH: refresh}} if refresh else {})
    template = {"metadata": pod_metadata, "spec": _pod_spec(service, variant, model, settings)}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata | {"labels": labels},
        "spec": ({} if replicas is None else {"replicas": replicas})
        | {
            "selector": {"matchLabels": selector},
            "strategy": _strategy(service),
            "template": with_pod_template(template, variant.pod_template),
        },
    }
    return record_template(deployment, _template_input(service, variant))


def _template_input(service: InferenceService, variant: Variant) -> dict[str, Any]:
    """Return what the user says about a revision's pods; a change of anything else leaves the pods as they are.

    The model is part of the Deployment's name.
    """
    capture = service.capture_of(variant)
    return {
        "auth": service.spec.auth,
        "cors": service.spec.cors.to_json() if service.spec.cors else None,
        "explain": service.spec.explain or None,
        "capture": capture.to_json() if capture else None,
        "feedback": service.spec.feedback.to_json() if service.spec.feedback and capture else None,
        # Empty ones have no limits; without any, there are defaults.
        "resources": None if variant.resources is None else set_fields(variant.resources),
        "scratch": variant.scratch,
        "answer": variant.answer.to_json() if variant.answer else None,
        "engine": variant.engine,
        "podTemplate": set_fields(variant.pod_template) or None,
        "refresh": service.metadata.annotations.get(REFRESH),
    }


def _strategy(service: InferenceService) -> Manifest:
    if service.recreates_pods:
        return {"type": "Recreate"}
    # A new pod is ready before an old one is removed, so an update loses no request.
    return {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}


def _pod_spec(service: InferenceService, variant: Variant, model: ServedModel, settings: Settings) -> Manifest:
    # The server refuses a larger model before it fetches it; without a limit, one could fill the node's disk.
    models_volume, models_mount = empty_dir("models", MODEL_FOLDER, size=variant.scratch or DEFAULT_SCRATCH)
    scratch_volume, scratch_mount = empty_dir("scratch", "/tmp", size=_TEMPORARY_FILES)
    volumes, mounts = [models_volume, scratch_volume], [models_mount, scratch_mount]
    about = about_name(revision_name(service, variant, model))
    volumes.append({"name": "about", "configMap": {"name": about, "optional": True}})
    # The whole folder: a subPath mount is not updated when the content changes.
    mounts.append({"name": "about", "mountPath": ABOUT_FOLDER, "readOnly": True})
    if service.spec.auth == "ApiKey":
        volumes.append({"name": "keys", "secret": {"secretName": digests_secret_name(service)}})
        mounts.append({"name": "keys", "mountPath": KEYS_FOLDER, "readOnly": True})
    pod = restricted_pod(settings) | {
        "terminationGracePeriodSeconds": 90,
        "topologySpreadConstraints": _spread_constraints(revision_name(service, variant, model)),
        "containers": [_server_container(service, variant, model, settings, mounts)],
        "volumes": volumes,
    }
    return with_network(pod, settings)


def _server_container(
    service: InferenceService, variant: Variant, model: ServedModel, settings: Settings, mounts: list[Manifest]
) -> Manifest:
    return restricted_container() | {
        "name": SERVER_CONTAINER,
        "image": server_image(variant.resources, settings),
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["python", "-m", "bloomery_serving"],
        "env": _environment(service, variant, model),
        "envFrom": _credentials(service.capture_of(variant), settings),
        "ports": [
            {"name": "http", "containerPort": HTTP_PORT},
            {"name": "metrics", "containerPort": METRICS_PORT},
            {"name": COMPARE_PORT_NAME, "containerPort": COMPARE_PORT},
        ],
        "resources": container_resources(variant.resources, default=DEFAULT_RESOURCES),
        "lifecycle": {"preStop": {"sleep": {"seconds": DRAIN_SECONDS}}},
        # Alive while it fetches and loads its model; a server that makes no progress for minutes is not.
        "startupProbe": _probe("live", period=1, failures=600),
        "readinessProbe": _probe("ready", period=2, failures=2),
        "livenessProbe": _probe("live", period=10, failures=6),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    }


def _credentials(capture: Capture | None, settings: Settings) -> list[Manifest]:
    """Return the sources of variables: the store's Secret, and that of the captures if they have their own."""
    secret = capture.secret_ref if capture else None
    own = [credentials(secret.name, prefix=CAPTURE_PREFIX)] if secret else []
    return [credentials(settings.storage_secret), *own]


def _spread_constraints(revision: str) -> list[Manifest]:
    """Return the preference to spread a revision's pods over nodes and zones; one node is enough."""
    return [
        {
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {REVISION: revision}},
        }
        for key in ("kubernetes.io/hostname", "topology.kubernetes.io/zone")
    ]


def _probe(endpoint: str, *, period: int, failures: int) -> Manifest:
    return {
        "httpGet": {"path": f"/v2/health/{endpoint}", "port": "http"},
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _environment(service: InferenceService, variant: Variant, model: ServedModel) -> list[Manifest]:
    values = {
        "MODEL_URI": model.uri,
        "MODEL_DIGEST": model.digest,
        "ABOUT_FILE": f"{ABOUT_FOLDER}/{ABOUT_FILE_NAME}",
        "DISPLAY_NAME": service.spec.display_name,
        "DESCRIPTION": service.spec.description,
        "MODEL_DIR": MODEL_FOLDER,
        "MODEL_MAX_BYTES": str(size_in_bytes(variant.scratch or DEFAULT_SCRATCH)),
        "SERVICE_NAME": service.metadata.name,
        "SERVICE_NAMESPACE": service.metadata.namespace,
        "VARIANT": variant.name,
        **lineage_environment(model),
        **answer_environment(variant.answer, variant.engine),
        "CORS_ALLOW_ORIGINS": ",".join(service.spec.cors.allow_origins) if service.spec.cors else None,
        # Servers of earlier versions ignore it.
        "EXPLAIN": "true" if service.spec.explain else None,
        **_capture_environment(service, service.capture_of(variant)),
        "API_KEYS_DIR": KEYS_FOLDER if service.spec.auth == "ApiKey" else None,
        "PORT": str(HTTP_PORT),
        "METRICS_PORT": str(METRICS_PORT),
        "COMPARE_PORT": str(COMPARE_PORT),
        "HOME": "/tmp",
    }
    entries: list[Manifest] = [{"name": name, "value": escape_dollar(value)} for name, value in values.items() if value]
    token = {"name": comparison_secret_name(service), "key": COMPARISON_TOKEN_KEY, "optional": True}
    entries.append({"name": "COMPARE_TOKEN", "valueFrom": {"secretKeyRef": token}})
    if not model.digest:
        source = {"name": revision_name(service, variant, model), "key": DIGEST_KEY, "optional": True}
        entries.append({"name": "MODEL_DIGEST", "valueFrom": {"configMapKeyRef": source}})
    return entries


def _capture_environment(service: InferenceService, capture: Capture | None) -> dict[str, str | None]:
    """Return the variables of a variant that captures; servers of earlier versions ignore them."""
    if capture is None:
        return {}
    return {
        "CAPTURE_URI": capture.uri,
        "CAPTURE_PERCENT": format_number(capture.percent),
        "CAPTURE_LOW_CONFIDENCE": format_number(capture.low_confidence),
        "CAPTURE_PER_CLASS": _format_whole(capture.per_class),
        "CAPTURE_MAX_PER_HOUR": _format_whole(capture.max_per_hour),
        "CAPTURE_STRIP_METADATA": "true" if capture.strip_metadata else None,
        # Also while the Secret is empty, pods do not take the store's keys.
        f"{CAPTURE_PREFIX}SECRET": capture.secret_ref.name if capture.secret_ref else None,
        "FEEDBACK_KEYS": ",".join(service.spec.feedback.keys) if service.spec.feedback else None,
    }


def _format_whole(number: int | None) -> str | None:
    return None if number is None else str(number)
