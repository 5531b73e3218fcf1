"""Tag of a model version in MLflow that names a service and the variants that serve the version."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

from bloomery_operator.domain.served_model import ServedVersion

_PREFIX = "bloomery.dev/served-by"


@dataclass(frozen=True)
class ServedTag:
    """A tag; two are equal if they are the same entry of the same version, with whatever value."""

    key: str
    version: ServedVersion
    variants: str = field(default="", compare=False)

    @staticmethod
    def key_of(cluster: str, namespace: str, service: str) -> str:
        """Return the key of a service's tag; with the cluster, as several clusters may share an MLflow."""
        return f"{_PREFIX}.{cluster}.{namespace}.{service}"

    @classmethod
    def parse(cls, text: str, version: ServedVersion, *, namespace: str, service: str) -> Self | None:
        """Return the tag that an annotation of a service's Deployment records; None if it records none.

        Annotations of version 0.1 have the variants only; the key was without the cluster.
        """
        key, separator, variants = text.partition("=")
        if text and not separator:
            return cls(f"{_PREFIX}.{namespace}.{service}", version, text)
        return cls(key, version, variants) if key.startswith(f"{_PREFIX}.") else None

    def __str__(self) -> str:
        """Return the tag as the annotation records it."""
        return f"{self.key}={self.variants}"
