"""ConfigMaps of an InferenceService: the digest of a served model, and the texts about it."""

from __future__ import annotations

import json

from bloomery_operator.api import InferenceService
from bloomery_operator.api.base import Manifest
from bloomery_operator.api.inferenceservice import Variant
from bloomery_operator.domain.labels import SERVE_ROLE
from bloomery_operator.domain.names import about_name
from bloomery_operator.domain.ports import COMPARE_PORT
from bloomery_operator.domain.served_model import ServedModel, revision_name
from bloomery_operator.manifests.deployment import ABOUT_FILE_NAME, DIGEST_KEY
from bloomery_operator.manifests.metadata import child_metadata


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


def build_about_config_map(
    service: InferenceService, variant: Variant, model: ServedModel, *, replaces: str | None = None
) -> Manifest:
    """Return the ConfigMap with what may change without a restart of the pods.

    Args:
        service: whose texts pods show.
        variant: of the service.
        model: whose name and version pods show.
        replaces: the revision with whose answers the pods compare theirs.
    """
    about = {
        "display_name": service.spec.display_name or "",
        "description": service.spec.description or "",
        "model_name": model.name or "",
        "model_version": model.version or "",
    }
    if replaces is not None:
        about["peer"] = f"http://{replaces}.{service.metadata.namespace}.svc:{COMPARE_PORT}"
    name = about_name(revision_name(service, variant, model))
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": child_metadata(service, name=name, role=SERVE_ROLE),
        "data": {ABOUT_FILE_NAME: json.dumps(about, ensure_ascii=False)},
    }


def says_something(about: Manifest) -> bool:
    """Return whether a ConfigMap about a model has any text; pods need none that is empty."""
    return any(json.loads(about["data"][ABOUT_FILE_NAME]).values())
