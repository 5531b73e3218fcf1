"""Base model of the API, and the models that several kinds share."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from itertools import islice
from typing import Any

from pydantic import BaseModel, BeforeValidator, ConfigDict
from pydantic.alias_generators import to_camel

API_GROUP = "bloomery.dev"
API_VERSION = "v1alpha1"

_DISTINCT_DIGITS = 8
"""Hexadecimal digits of the digest at the end of a cut text."""

Manifest = dict[str, Any]
"""A Kubernetes object as JSON."""


class ApiModel(BaseModel):
    """Base of all API models: frozen, camelCase outside, unknown fields ignored, as the CRD's schema rejects them."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True, extra="ignore")

    def to_json(self) -> Manifest:
        """Return the JSON form, without fields that are None."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def at_most(length: int, *, distinct: bool = False) -> BeforeValidator:
    """Cut a text of a status to the CRD's limit: the API server would reject the whole status for a longer one.

    Args:
        length: the CRD's ``maxLength``.
        distinct: end the cut text with its digest, so that it differs from others with the same beginning.
    """

    def cut(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        # A trainer may report half of a surrogate pair, which UTF-8 does not have.
        text = value.encode(errors="replace").decode()
        if len(text) <= length:
            return text
        end = f"…{hashlib.sha256(text.encode()).hexdigest()[:_DISTINCT_DIGITS]}" if distinct else "…"
        return text[: length - len(end)] + end

    return BeforeValidator(cut)


def at_most_entries(count: int) -> BeforeValidator:
    """Cut a list or a map of a status to the CRD's ``maxItems`` or ``maxProperties``."""

    def cut(value: Any) -> Any:
        if isinstance(value, Mapping):
            return dict(islice(value.items(), count))
        return value[:count] if isinstance(value, list | tuple) else value

    return BeforeValidator(cut)


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
