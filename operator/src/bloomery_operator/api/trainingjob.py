"""TrainingJob: one training of one classifier, tracked and registered in MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from bloomery_operator.api.base import ApiModel, PodTemplate, Resources, at_most, at_most_entries
from bloomery_operator.api.conditions import JobStatus
from bloomery_operator.api.custom_resource import CustomResource
from bloomery_operator.api.reasons import Reason

MANAGED_BY_US = "bloomery.dev/operator"
"""The value of ``spec.managedBy`` that means this operator; an absent one does, too."""


class DatasetReference(ApiModel):
    """A Dataset of the same namespace, with a version and a choice of classes."""

    name: str
    version: str | int | None = None
    classes: tuple[str, ...] = ()


class InitialModel(ApiModel):
    """Initial model; exactly one field is set. ``weights`` is "None" to start from scratch."""

    training_job: str | None = None
    mlflow: str | None = None
    uri: str | None = None
    weights: str | None = None


class EarlyStopping(ApiModel):
    """Limit of epochs without improvement."""

    patience: int = 5


class Checkpoint(ApiModel):
    """Interval of checkpoints, as a duration or in steps, and the number that is kept."""

    every: str = "5m"
    keep: int = 2


class Promotion(ApiModel):
    """Conditions under which the registry's alias moves to the new version."""

    alias: str
    at_least: float | None = None
    better_than_current: bool = False
    least_gain: float | None = None
    confidence: float | None = None


class Output(ApiModel):
    """Output folder, and name in the registry."""

    uri: str | None = None
    log_uri: str | None = None
    registered_model: str | None = None
    version_label: str | None = None
    promote: Promotion | None = None
    quantization: Literal["None", "Int8"] = "None"
    references: bool | None = None


class TrainingJobSpec(ApiModel):
    """Spec of a TrainingJob; immutable except for suspend, stop, tensorboard, the names and the TTL."""

    datasets: tuple[DatasetReference, ...]
    preset: str
    display_name: str | None = None
    description: str | None = None
    initial_model: InitialModel | None = None
    evaluate_only: bool | None = None
    hyperparameters: Mapping[str, Any] = {}
    """As in the CRD, which validates them; only the trainer reads them, and its recipe supplies what is absent."""
    metric: str = "top1"
    early_stopping: EarlyStopping | None = None
    checkpoint: Checkpoint = Checkpoint()
    nodes: int = 1
    resources: Resources | None = None
    scratch: str | int = "5Gi"
    max_training_time: str | None = None
    stop: bool | None = None
    suspend: bool | None = None
    queue: str | None = None
    managed_by: str | None = None
    tensorboard: bool | None = None
    pod_template: PodTemplate | None = None
    active_deadline_seconds: int | None = None
    backoff_limit: int = 3
    ttl_seconds_after_finished: int | None = None
    output: Output = Output()


class TrainProgress(ApiModel):
    """Progress of a running training; ``eta`` is a Go-style duration."""

    stage: Annotated[str | None, at_most(64)] = None
    epoch: int | None = None
    step: int | None = None
    total_steps: int | None = None
    steps: Annotated[str | None, at_most(64)] = None
    images_per_second: float | None = None
    eta: Annotated[str | None, at_most(32)] = None
    loss: float | None = None
    metric: float | None = None


class SavedState(ApiModel):
    """A checkpoint in the store."""

    step: int
    uri: Annotated[str | None, at_most(2048)] = None
    time: datetime | None = None


class MlflowRun(ApiModel):
    """The MLflow run of a job."""

    experiment_id: Annotated[str | None, at_most(64)] = None
    run_id: Annotated[str | None, at_most(64)] = None
    url: Annotated[str | None, at_most(2048)] = None


class Model(ApiModel):
    """A trained model: its registry version and its folder in the store."""

    name: Annotated[str | None, at_most(256)] = None
    version: Annotated[str | None, at_most(64)] = None
    version_label: Annotated[str | None, at_most(64)] = None
    display: Annotated[str | None, at_most(328)] = None
    uri: Annotated[str | None, at_most(2048)] = None
    digest: Annotated[str | None, at_most(128)] = None


class TrainedOn(ApiModel):
    """A dataset version that a job trains on."""

    name: Annotated[str, at_most(253)]
    version: Annotated[str, at_most(64)]
    uri: Annotated[str, at_most(2048)]


RecipeText = Annotated[str, at_most(256)]


class TrainingJobStatus(JobStatus):
    """Status of a TrainingJob: its progress and its result."""

    preemptions: int | None = None
    last_checkpoint: SavedState | None = None
    initial_model: Annotated[str | None, at_most(512)] = None
    recipe: Annotated[Mapping[str, RecipeText] | None, at_most_entries(32)] = None
    tensorboard_url: Annotated[str | None, at_most(2048)] = Field(default=None, alias="tensorboardURL")
    datasets: Annotated[tuple[TrainedOn, ...], at_most_entries(8)] = ()
    progress: TrainProgress | None = None
    mlflow: MlflowRun | None = None
    model: Model | None = None
    metrics: Annotated[Mapping[str, float] | None, at_most_entries(32)] = None
    metric: Annotated[str | None, at_most(64)] = None

    @property
    def awaits_registration(self) -> bool:
        """Whether the job has ended with a model that MLflow could not take, as far as is known."""
        return self._is_complete_with(Reason.NOT_REGISTERED) or self.is_result_lost

    @property
    def is_result_lost(self) -> bool:
        """Whether the job has ended, and its result is not known."""
        return self._is_complete_with(Reason.RESULT_LOST)

    def _is_complete_with(self, reason: Reason) -> bool:
        complete = self.condition("Complete")
        return complete is not None and complete.reason == reason


class TrainingJob(CustomResource):
    """A training of a classifier."""

    KIND: ClassVar[str] = "TrainingJob"
    OWNER_LABEL: ClassVar[str] = "bloomery.dev/trainingjob"

    spec: TrainingJobSpec
    status: TrainingJobStatus = Field(default_factory=TrainingJobStatus)

    @property
    def is_ours(self) -> bool:
        """Whether this operator runs the job, rather than another controller."""
        return self.spec.managed_by in (None, MANAGED_BY_US)
