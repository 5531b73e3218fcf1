"""Dataset: images of an object store, checked, split and packed into shards under a content digest."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar, Literal

from pydantic import Field

from bloomery_operator.api.base import ApiModel, Resources, SecretReference
from bloomery_operator.api.conditions import CustomResourceStatus
from bloomery_operator.api.custom_resource import CustomResource

MIN_DIGEST_CHARACTERS = 8
"""Length of the shortest prefix of a digest that names a version."""


class Source(ApiModel):
    """Location and layout of the images."""

    uri: str
    layout: Literal["Auto", "SplitFolders", "Folders", "ImageText"] = "Auto"
    encoding: str | None = None
    secret_ref: SecretReference | None = None


class Addition(ApiModel):
    """Further images, of the classes of their folders or all of one class."""

    uri: str
    class_name: str | None = Field(default=None, alias="class")
    encoding: str | None = None


class DatasetSpec(ApiModel):
    """Spec of a Dataset."""

    source: Source
    display_name: str | None = None
    description: str | None = None
    append: tuple[Addition, ...] = ()
    exclude: tuple[str, ...] = ()
    rename: Mapping[str, str] = {}
    classes: tuple[str, ...] = ()
    split: Mapping[str, Any] = {}
    """As in the CRD, which validates it; only the trainer reads it. The same holds for ``rules`` and ``shards``."""
    rules: Mapping[str, Any] = {}
    shards: Mapping[str, Any] = {}
    resources: Resources | None = None


class DatasetVersion(ApiModel):
    """A prepared version, which stays in the store."""

    ordinal: int
    version: str
    images: int
    created: datetime
    uri: str


class ClassCount(ApiModel):
    """Numbers of images of a class in each split."""

    name: str
    train: int = 0
    validation: int = 0
    test: int = 0


class PrepareProgress(ApiModel):
    """Progress of a running preparation."""

    stage: str | None = None
    images: int = 0
    total: int | None = None


class DatasetStatus(CustomResourceStatus):
    """Status of a Dataset: its versions, and a preparation in progress."""

    prepared_spec: str | None = None
    progress: PrepareProgress | None = None
    version: str | None = None
    versions: tuple[DatasetVersion, ...] = ()
    uri: str | None = None
    images: int | None = None
    class_count: int | None = None
    classes: tuple[ClassCount, ...] = ()
    report: str | None = None
    ignored: Mapping[str, int] | None = None
    warnings: tuple[str, ...] = ()


class Dataset(CustomResource):
    """A set of labelled images."""

    KIND: ClassVar[str] = "Dataset"
    OWNER_LABEL: ClassVar[str] = "bloomery.dev/dataset"

    spec: DatasetSpec
    status: DatasetStatus = Field(default_factory=DatasetStatus)

    def find_version(self, reference: str | int | None) -> DatasetVersion | None:
        """Return the version with that ordinal or prefix of a digest; with None, the newest."""
        versions, text = self.status.versions, str(reference)
        if reference is None:
            return next((v for v in versions if v.version == self.status.version), None)
        by_ordinal = next((v for v in versions if str(v.ordinal) == text), None)
        is_digest = len(text) >= MIN_DIGEST_CHARACTERS
        return by_ordinal or next((v for v in versions if is_digest and v.version.startswith(text)), None)
