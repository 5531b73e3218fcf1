"""ConfigMaps: a trainer Job's configuration, the digest of a served model, and the texts about it."""

from __future__ import annotations

import json

from bloomery_operator.api import InferenceService
from bloomery_operator.api.base import Manifest
from bloomery_operator.api.custom_resource import CustomResource
from bloomery_operator.api.inferenceservice import Variant
from bloomery_operator.domain.labels import SERVE_ROLE
from bloomery_operator.domain.names import about_name, config_map_name
from bloomery_operator.domain.served_model import ServedModel, revision_name
from bloomery_operator.manifests.deployment import ABOUT_FILE_NAME, DIGEST_KEY
from bloomery_operator.manifests.job import TrainerTask
from bloomery_operator.manifests.metadata import child_metadata


def build_config_map(owner: CustomResource, task: TrainerTask) -> Manifest:
    """Return the immutable ConfigMap with a task's resolved configuration."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": child_metadata(owner, name=config_map_name(owner, task.command, task.job_hash), role=task.command),
        "immutable": True,
        "data": {"config.json": json.dumps(task.config, indent=1, ensure_ascii=False)},
    }


def build_digest_config_map(service: InferenceService, variant: Variant, model: ServedModel, digest: str) -> Manifest:
    """Return the ConfigMap with the digest that the first pod of a revision found, if its model had none.

    Pods read it when they start, so that later pods serve the same bytes; no pod restarts for it.
    """
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": child_metadata(service, name=revision_name(service, variant, model), role=SERVE_ROLE),
        "immutable": True,
        "data": {DIGEST_KEY: digest},
    }


def build_about_config_map(service: InferenceService, variant: Variant, model: ServedModel) -> Manifest:
    """Return the ConfigMap with what pods show and may change without a restart: texts, and the model's name."""
    about = {
        "display_name": service.spec.display_name or "",
        "description": service.spec.description or "",
        "model_name": model.name or "",
        "model_version": model.version or "",
    }
    name = about_name(revision_name(service, variant, model))
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": child_metadata(service, name=name, role=SERVE_ROLE),
        "data": {ABOUT_FILE_NAME: json.dumps(about, ensure_ascii=False)},
    }
