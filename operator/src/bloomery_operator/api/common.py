"""Base of the three kinds: models of metadata, conditions, resources and references."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

API_GROUP = "bloomery.dev"
API_VERSION = "v1alpha1"

Manifest = dict[str, Any]
"""A Kubernetes object as JSON."""


class InvalidResource(ValueError):
    """A stored object that the models cannot read; the message names each wrong field."""


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


class ObjectMeta(ApiModel):
    """Metadata of an object, as far as decisions need it."""

    name: str
    namespace: str
    uid: str
    generation: int = 1
    resource_version: str = ""
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    annotations: Mapping[str, str] = {}
    labels: Mapping[str, str] = {}


class Condition(ApiModel):
    """A standard Kubernetes condition (meta/v1 Condition)."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str = ""
    observed_generation: int | None = None
    last_transition_time: datetime | None = None

    @property
    def is_true(self) -> bool:
        """Whether the status is True."""
        return self.status == "True"


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


class CustomResourceStatus(ApiModel):
    """The status fields that all three kinds have."""

    observed_generation: int | None = None
    conditions: tuple[Condition, ...] = ()
    phase: str | None = None

    def condition(self, type_: str) -> Condition | None:
        """Return the condition of that type, if there is one."""
        return next((c for c in self.conditions if c.type == type_), None)

    def is_true(self, type_: str) -> bool:
        """Return whether there is a condition of that type with status True."""
        condition = self.condition(type_)
        return condition is not None and condition.is_true


class CustomResource(ApiModel):
    """Base of the three kinds, which add ``spec`` and their own ``status``."""

    KIND: ClassVar[str]
    OWNER_LABEL: ClassVar[str]

    metadata: ObjectMeta
    status: CustomResourceStatus = Field(default_factory=CustomResourceStatus)

    @classmethod
    def parse(cls, manifest: Mapping[str, Any]) -> Self:
        """Parse an object as the API server returns it.

        Raises:
            InvalidResource: a field is missing or wrong; the message names each one.
        """
        try:
            return cls.model_validate(manifest)
        except ValidationError as error:
            raise InvalidResource("; ".join(_error_sentence(e["loc"], e["msg"]) for e in error.errors())) from error


def _error_sentence(location: tuple[int | str, ...], message: str) -> str:
    return f"{'.'.join(str(part) for part in location)}: {message[:1].lower()}{message[1:]}"
