"""Base model of the API, and the models that several kinds share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, BeforeValidator, ConfigDict
from pydantic.alias_generators import to_camel

API_GROUP = "bloomery.dev"
API_VERSION = "v1alpha1"

Manifest = dict[str, Any]
"""A Kubernetes object as JSON."""


class ApiModel(BaseModel):
    """Base of all API models: frozen, camelCase outside, unknown fields ignored, as the CRD's schema rejects them."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True, extra="ignore")

    def to_json(self) -> Manifest:
        """Return the JSON form, without fields that are None."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def at_most(length: int) -> BeforeValidator:
    """Cut a status text of foreign origin to the CRD's limit: a longer one would have the whole status rejected."""
    return BeforeValidator(lambda text: text[:length] if isinstance(text, str) else text)


class SecretReference(ApiModel):
    """The name of a Secret in the same namespace."""

    name: str


class Resources(ApiModel):
    """Compute resources of a pod's container, as in core/v1."""

    requests: Mapping[str, str | int] = {}
    limits: Mapping[str, str | int] = {}


class Toleration(ApiModel):
    """A tolerated taint, as in core/v1."""

    key: str | None = None
    operator: str | None = None
    value: str | None = None
    effect: str | None = None
    toleration_seconds: int | None = None


class PodTemplate(ApiModel):
    """Additions to the template of the pods that the operator makes."""

    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}
    node_selector: Mapping[str, str] = {}
    tolerations: tuple[Toleration, ...] = ()
    priority_class_name: str | None = None
    runtime_class_name: str | None = None
    scheduler_name: str | None = None
