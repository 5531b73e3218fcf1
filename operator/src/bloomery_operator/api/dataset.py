"""Dataset: images in an object store, checked, split and packed into shards under a content digest."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import ClassVar, Literal

from pydantic import Field

from bloomery_operator.api.common import (
    ApiModel,
    CustomResource,
    CustomResourceStatus,
    Resources,
    SecretReference,
)

SHORTEST_DIGEST = 8
"""Characters of a version's digest that are enough to name it."""


class Source(ApiModel):
    """Where the images are and how they are laid out."""

    uri: str
    layout: Literal["Auto", "SplitFolders", "Folders", "ImageText"] = "Auto"
    secret_ref: SecretReference | None = None


class Addition(ApiModel):
    """Images that came later: into their folders' classes, or all into one."""

    uri: str
    class_name: str | None = Field(default=None, alias="class")


class Split(ApiModel):
    """Shares of each class that are held out; ignored where the layout has its own split."""

    validation: float = 0.2
    test: float = 0.0
    seed: int = 0


class Rules(ApiModel):
    """What an image and a class must meet; an image that does not is ignored and counted."""

    check: bool = True
    min_images_per_class: int = 20
    min_classes: int = 2
    max_classes: int = 1000
    formats: tuple[str, ...] = ("jpg", "jpeg", "png", "bmp")
    max_bytes: str | int = "4Mi"
    max_archive_bytes: str | int = "5Gi"
    max_aspect_ratio: float = 3
    min_side: int = 31
    max_side: int = 4095


class Shards(ApiModel):
    """How images are packed."""

    images: int = 1000


class DatasetSpec(ApiModel):
    """What a user asks for."""

    source: Source
    display_name: str | None = None
    description: str | None = None
    append: tuple[Addition, ...] = ()
    exclude: tuple[str, ...] = ()
    rename: Mapping[str, str] = {}
    classes: tuple[str, ...] = ()
    split: Split = Split()
    rules: Rules = Rules()
    shards: Shards = Shards()
    resources: Resources | None = None


class DatasetVersion(ApiModel):
    """One prepared version; it stays in the store."""

    ordinal: int
    version: str
    images: int
    created: datetime
    uri: str


class ClassCount(ApiModel):
    """Images of one class in each split."""

    name: str
    train: int = 0
    validation: int = 0
    test: int = 0


class PrepareProgress(ApiModel):
    """How far a running preparation is."""

    stage: str | None = None
    images: int = 0
    total: int | None = None


class DatasetStatus(CustomResourceStatus):
    """What was prepared, and what is under way."""

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

    def find_version(self, wanted: str | int | None) -> DatasetVersion | None:
        """Return the version by its ordinal or the beginning of its digest, or with None the newest."""
        versions, text = self.status.versions, str(wanted)
        if wanted is None:
            return next((v for v in versions if v.version == self.status.version), None)
        by_ordinal = next((v for v in versions if str(v.ordinal) == text), None)
        is_digest = len(text) >= SHORTEST_DIGEST
        return by_ordinal or next((v for v in versions if is_digest and v.version.startswith(text)), None)
