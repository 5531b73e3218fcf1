"""Dataset: images of an object store, checked, split and packed into shards under a content digest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from bloomery_operator.api.base import (
    ApiModel,
    PodTemplate,
    Resources,
    SecretReference,
    at_most,
    at_most_entries,
)
from bloomery_operator.api.conditions import CustomResourceStatus
from bloomery_operator.api.custom_resource import CustomResource

_DIGEST = re.compile(r"[0-9a-f]{64}")
MIN_DIGEST_CHARACTERS = 8
"""Length of the shortest prefix of a digest that names a version."""
MAX_VERSIONS = 20
MAX_CLASSES = 100
MAX_WARNINGS = 32
"""Entries of a status; the manifest in the store has all."""


class Source(ApiModel):
    """Location and layout of the images."""

    uri: str
    layout: Literal["Auto", "SplitFolders", "Folders", "ImageText"] = "Auto"
    encoding: str | None = None
    secret_ref: SecretReference | None = None


class Addition(ApiModel):
    """Further images, of the classes of their folders or all of one class, or captures of a service."""

    uri: str
    class_name: str | None = Field(default=None, alias="class")
    encoding: str | None = None
    from_: Literal["Capture"] | None = Field(default=None, alias="from")
    trust_above: float | None = None
    secret_ref: SecretReference | None = None


class Move(ApiModel):
    """An image, and the class that it belongs to."""

    image: str
    class_name: str = Field(alias="class")


class Refresh(ApiModel):
    """Times at which the images are prepared again."""

    schedule: str
    time_zone: str | None = None


class DatasetSpec(ApiModel):
    """Spec of a Dataset."""

    source: Source
    display_name: str | None = None
    description: str | None = None
    append: tuple[Addition, ...] = ()
    exclude: tuple[str, ...] = ()
    move: tuple[Move, ...] = ()
    rename: Mapping[str, str] = {}
    classes: tuple[str, ...] = ()
    split: Mapping[str, Any] = {}
    """As in the CRD, which validates it; only the trainer reads it. The same holds for ``rules`` and ``shards``."""
    rules: Mapping[str, Any] = {}
    shards: Mapping[str, Any] = {}
    refresh: Refresh | None = None
    resources: Resources | None = None
    pod_template: PodTemplate | None = None


class DatasetVersion(ApiModel):
    """A prepared version, which stays in the store."""

    ordinal: int
    version: Annotated[str, at_most(64)]
    images: int
    created: datetime
    uri: Annotated[str, at_most(2048)]


class ClassCount(ApiModel):
    """Numbers of images of a class in each split."""

    name: Annotated[str, at_most(256, distinct=True)]
    train: int = 0
    validation: int = 0
    test: int = 0


class Quality(ApiModel):
    """Numbers of copies among the images."""

    copies: int = 0
    near_copies: int = 0
    conflicts: int = 0
    leaks: int = 0


class PrepareProgress(ApiModel):
    """Progress of a running preparation."""

    stage: Annotated[str | None, at_most(64)] = None
    images: int = 0
    total: int | None = None


class DatasetStatus(CustomResourceStatus):
    """Status of a Dataset: its versions, and a preparation in progress."""

    prepared_spec: Annotated[str | None, at_most(64)] = None
    last_refresh_time: datetime | None = None
    progress: PrepareProgress | None = None
    version: Annotated[str | None, at_most(64)] = None
    versions: Annotated[tuple[DatasetVersion, ...], at_most_entries(MAX_VERSIONS)] = ()
    uri: Annotated[str | None, at_most(2048)] = None
    images: int | None = None
    class_count: int | None = None
    classes: Annotated[tuple[ClassCount, ...], at_most_entries(MAX_CLASSES)] = ()
    report: Annotated[str | None, at_most(2048)] = None
    ignored: Annotated[Mapping[str, int] | None, at_most_entries(32)] = None
    quality: Quality | None = None
    warnings: Annotated[tuple[Annotated[str, at_most(1024)], ...], at_most_entries(MAX_WARNINGS)] = ()


class Dataset(CustomResource):
    """A set of labelled images."""

    KIND: ClassVar[str] = "Dataset"
    OWNER_LABEL: ClassVar[str] = "bloomery.dev/dataset"

    spec: DatasetSpec
    status: DatasetStatus = Field(default_factory=DatasetStatus)

    @property
    def has_unlisted_versions(self) -> bool:
        """Whether there are versions that the status no longer lists."""
        return bool(self.status.versions) and self.status.versions[-1].ordinal > 1

    def find_version(self, reference: str | int | None) -> DatasetVersion | None:
        """Return the version with that ordinal or prefix of a digest; with None, the newest.

        A version that the status no longer lists is found by its whole digest, as that names its folder in the store.
        """
        versions, text = self.status.versions, str(reference)
        if reference is None:
            return next((v for v in versions if v.version == self.status.version), None)
        if self.has_unlisted_versions and _DIGEST.fullmatch(text):
            return next((v for v in versions if v.version == text), None) or self._unlisted_version(text)
        by_ordinal = next((v for v in versions if str(v.ordinal) == text), None)
        is_digest = len(text) >= MIN_DIGEST_CHARACTERS
        return by_ordinal or next((v for v in versions if is_digest and v.version.startswith(text)), None)

    def _unlisted_version(self, digest: str) -> DatasetVersion:
        newest = self.status.versions[0]
        return newest.model_copy(
            update={"version": digest, "uri": f"{newest.uri.removesuffix(newest.version)}{digest}", "ordinal": 0}
        )
