"""Retraining: TrainingJobs that are made by a schedule or by new images, one at a time."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar

from pydantic import AwareDatetime, Field

from bloomery_operator.api.base import ApiModel, at_most, at_most_entries
from bloomery_operator.api.conditions import CustomResourceStatus
from bloomery_operator.api.custom_resource import CustomResource
from bloomery_operator.api.trainingjob import TrainingJobSpec

MAX_HISTORY = 100


class TrainingJobTemplate(ApiModel):
    """Template of the TrainingJobs."""

    spec: TrainingJobSpec


class RetrainingSpec(ApiModel):
    """Spec of a Retraining: its triggers, and the template of its TrainingJobs."""

    schedule: str | None = None
    time_zone: str | None = None
    on_new_version: bool | None = None
    min_new_images: int | None = None
    suspend: bool | None = None
    history_limit: int = 3
    template: TrainingJobTemplate

    @property
    def follows_datasets(self) -> bool:
        """Whether new versions of the Datasets are a trigger."""
        return bool(self.on_new_version) or self.min_new_images is not None


class DatasetState(ApiModel):
    """A Dataset as a training found it."""

    name: Annotated[str, at_most(253)]
    version: Annotated[str, at_most(64)]
    images: int | None = None


class Trigger(ApiModel):
    """Cause of a training: an annotation of its TrainingJob."""

    number: Annotated[int, Field(gt=0, lt=2**31)]
    """Ordinal of the training among those of its Retraining."""
    cause: Annotated[str, at_most(512)]
    schedule_time: AwareDatetime | None = None
    """The time at which the schedule was due, if it was."""
    datasets: tuple[DatasetState, ...] = ()


class Training(ApiModel):
    """A finished training that still exists as a TrainingJob."""

    name: Annotated[str, at_most(253)]
    cause: Annotated[str, at_most(512)]
    phase: Annotated[str | None, at_most(32)] = None
    model: Annotated[str | None, at_most(328)] = None
    completion_time: datetime | None = None


class RetrainingStatus(CustomResourceStatus):
    """Status of a Retraining: what it made last, and for which images."""

    trainings: int | None = None
    active: Annotated[str | None, at_most(253)] = None
    last_schedule_time: datetime | None = None
    champion: Annotated[str | None, at_most(328)] = None
    datasets: Annotated[tuple[DatasetState, ...], at_most_entries(8)] = ()
    history: Annotated[tuple[Training, ...], at_most_entries(MAX_HISTORY)] = ()


class Retraining(CustomResource):
    """Trainings that are made again and again from one template."""

    KIND: ClassVar[str] = "Retraining"
    OWNER_LABEL: ClassVar[str] = "bloomery.dev/retraining"

    spec: RetrainingSpec
    status: RetrainingStatus = Field(default_factory=RetrainingStatus)
