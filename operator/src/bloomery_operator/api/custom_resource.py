"""Base of the kinds: metadata, and parsing."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar, Self

from pydantic import Field, ValidationError

from bloomery_operator.api.base import ApiModel
from bloomery_operator.api.conditions import CustomResourceStatus


class InvalidResource(ValueError):
    """A stored object that the models cannot read; the message names each wrong field."""


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


class CustomResource(ApiModel):
    """Base of the kinds, which add ``spec`` and their own ``status``."""

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
