"""Job of a BatchPrediction: pods of the serving image that share the images of a source."""

from __future__ import annotations

from collections.abc import Mapping

from bloomery_operator.api import BatchPrediction
from bloomery_operator.api.base import Manifest, Resources
from bloomery_operator.domain.labels import MODEL, PREDICT_ROLE, QUEUE, child_labels
from bloomery_operator.domain.names import SERVER_CONTAINER, job_name
from bloomery_operator.domain.ports import PROGRESS_PORT
from bloomery_operator.domain.served_model import ServedModel, model_record
from bloomery_operator.manifests.job import NODE_TOLERATIONS, failure_rules
from bloomery_operator.manifests.metadata import child_metadata
from bloomery_operator.manifests.network import with_network
from bloomery_operator.manifests.pod import (
    container_resources,
    credentials,
    empty_dir,
    escape_dollar,
    restricted_container,
    restricted_pod,
    size_in_bytes,
    with_pod_template,
)
from bloomery_operator.manifests.server import (
    DEFAULT_SCRATCH,
    MODEL_FOLDER,
    answer_environment,
    lineage_environment,
    server_image,
)
from bloomery_operator.manifests.sources import (
    DEFAULT_MAX_ARCHIVE_BYTES,
    SOURCE_PREFIX,
    claim_mounts,
    claim_volumes,
    claims_of,
    mounted_uri,
    networks_environment,
    scratch_bytes,
)
from bloomery_operator.settings import Settings

COMMAND = "predict"
OUTPUT_PREFIX = "OUTPUT_STORE_"
"""Prefix of the variables of the output's own Secret, beside those of the store's."""
DEFAULT_RESOURCES = Resources(requests={"cpu": "500m", "memory": "1Gi"}, limits={"memory": "2Gi"})


def build_job(prediction: BatchPrediction, model: ServedModel, settings: Settings) -> Manifest:
    """Return the Indexed Job, with a record of its model: each index has a share of the images."""
    spec = prediction.spec
    template = {
        "metadata": {"labels": child_labels(prediction, role=PREDICT_ROLE)},
        "spec": _pod_spec(prediction, model, settings),
    }
    metadata = child_metadata(
        prediction,
        name=job_name(prediction, COMMAND),
        role=PREDICT_ROLE,
        annotations={MODEL: model_record(model)},
    )
    metadata["labels"] |= {QUEUE: spec.queue} if spec.queue else {}
    job: Manifest = {
        "completionMode": "Indexed",
        "completions": spec.parallelism,
        "parallelism": spec.parallelism,
        "backoffLimit": spec.backoff_limit,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": failure_rules(SERVER_CONTAINER)},
        "template": with_pod_template(template, spec.pod_template),
    }
    if spec.active_deadline_seconds is not None:
        job["activeDeadlineSeconds"] = spec.active_deadline_seconds
    if spec.queue or spec.suspend:
        job["suspend"] = True
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": job}


def store_secrets(prediction: BatchPrediction) -> Mapping[str, str]:
    """Return the names of the Secrets of the prediction's own stores, by the field that names them."""
    references = {"spec.source": prediction.spec.source.secret_ref, "spec.output": prediction.spec.output.secret_ref}
    return {field: reference.name for field, reference in references.items() if reference is not None}


def _pod_spec(prediction: BatchPrediction, model: ServedModel, settings: Settings) -> Manifest:
    spec, claims = prediction.spec, claims_of([prediction.spec.source.uri])
    models_volume, models_mount = empty_dir("models", MODEL_FOLDER, size=spec.scratch or DEFAULT_SCRATCH)
    scratch = scratch_bytes([spec.source.uri], spec.source.max_archive_bytes or DEFAULT_MAX_ARCHIVE_BYTES)
    scratch_volume, scratch_mount = empty_dir("scratch", "/tmp", size=scratch)
    container = restricted_container() | {
        "name": SERVER_CONTAINER,
        "image": server_image(spec.resources, settings),
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["python", "-m", "bloomery_serving"],
        "args": ["batch"],
        "env": [*_environment(prediction, model), *networks_environment(settings)],
        "envFrom": _credentials(prediction, settings),
        "ports": [{"name": "progress", "containerPort": PROGRESS_PORT}],
        "resources": container_resources(spec.resources, default=DEFAULT_RESOURCES),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [models_mount, scratch_mount, *claim_mounts(claims)],
    }
    pod = restricted_pod(settings) | {
        "restartPolicy": "Never",
        "tolerations": NODE_TOLERATIONS,
        "containers": [container],
        "volumes": [models_volume, scratch_volume, *claim_volumes(claims)],
    }
    return with_network(pod, settings)


def _credentials(prediction: BatchPrediction, settings: Settings) -> list[Manifest]:
    source, output = prediction.spec.source.secret_ref, prediction.spec.output.secret_ref
    return [
        credentials(settings.storage_secret),
        *([credentials(source.name, prefix=SOURCE_PREFIX)] if source else []),
        *([credentials(output.name, prefix=OUTPUT_PREFIX)] if output else []),
    ]


def _environment(prediction: BatchPrediction, model: ServedModel) -> list[Manifest]:
    spec, metadata = prediction.spec, prediction.metadata
    values = {
        "MODEL_URI": model.uri,
        "MODEL_DIGEST": model.digest,
        "MODEL_DIR": MODEL_FOLDER,
        "MODEL_MAX_BYTES": str(size_in_bytes(spec.scratch or DEFAULT_SCRATCH)),
        "SERVICE_NAME": metadata.name,
        "SERVICE_NAMESPACE": metadata.namespace,
        **lineage_environment(model),
        **answer_environment(spec.answer, spec.engine),
        "SOURCE_URI": mounted_uri(spec.source.uri, claims_of([spec.source.uri])),
        "SOURCE_ENCODING": spec.source.encoding,
        "MAX_ARCHIVE_BYTES": str(size_in_bytes(spec.source.max_archive_bytes or DEFAULT_MAX_ARCHIVE_BYTES)),
        "OUTPUT_URI": spec.output.uri.rstrip("/"),
        "OUTPUT_FORMAT": spec.output.format,
        "OUTPUT_FOLDERS": "true" if spec.output.folders else None,
        "BATCH_UID": metadata.uid,
        "BATCH_PODS": str(spec.parallelism),
        "PROGRESS_PORT": str(PROGRESS_PORT),
        "HOME": "/tmp",
    }
    return [{"name": name, "value": escape_dollar(value)} for name, value in values.items() if value]
