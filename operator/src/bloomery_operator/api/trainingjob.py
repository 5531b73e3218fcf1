"""TrainingJob: one training of one classifier, tracked and registered in MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import ClassVar, Literal

from pydantic import Field

from bloomery_operator.api.common import ApiModel, CustomResource, CustomResourceStatus, Resources


class DatasetReference(ApiModel):
    """A Dataset of the same namespace, and which of its versions."""

    name: str
    version: str | int | None = None


class Hyperparameters(ApiModel):
    """The recipe; None is the preset's own default."""

    epochs: int | None = None
    max_steps: int | None = None
    batch_size: int = 32
    learning_rate: float | None = None
    optimizer: Literal["sgd", "adamw"] | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    warmup_epochs: float | None = None
    label_smoothing: float = 0.1
    image_size: int = 224
    augmentation: Literal["TrivialAugment", "Light", "None"] = "TrivialAugment"
    horizontal_flip: bool = True
    seed: int = 0


class Output(ApiModel):
    """Where the model goes in the registry."""

    registered_model: str | None = None
    version_label: str | None = None


class TrainingJobSpec(ApiModel):
    """What a user asks for; immutable but for the names and the TTL."""

    datasets: tuple[DatasetReference, ...]
    preset: str
    display_name: str | None = None
    description: str | None = None
    hyperparameters: Hyperparameters = Hyperparameters()
    metric: str = "top1"
    resources: Resources | None = None
    scratch: str | int = "5Gi"
    active_deadline_seconds: int | None = None
    backoff_limit: int = 3
    ttl_seconds_after_finished: int | None = None
    output: Output = Output()


class TrainProgress(ApiModel):
    """How far a running training is; ``eta`` a Go-style duration."""

    stage: str | None = None
    epoch: int | None = None
    step: int | None = None
    total_steps: int | None = None
    steps: str | None = None
    images_per_second: float | None = None
    eta: str | None = None
    loss: float | None = None
    metric: float | None = None


class MlflowRun(ApiModel):
    """The MLflow run of a job."""

    experiment_id: str | None = None
    run_id: str | None = None
    url: str | None = None


class Model(ApiModel):
    """A trained model: its registry version and its folder in the store."""

    name: str | None = None
    version: str | None = None
    display: str | None = None
    uri: str | None = None
    digest: str | None = None


class TrainedOn(ApiModel):
    """The dataset version that a job trains on."""

    name: str
    version: str
    uri: str


class TrainingJobStatus(CustomResourceStatus):
    """How far it is, and what came of it."""

    start_time: datetime | None = None
    completion_time: datetime | None = None
    restarts: int | None = None
    dataset: TrainedOn | None = None
    progress: TrainProgress | None = None
    mlflow: MlflowRun | None = None
    model: Model | None = None
    metrics: Mapping[str, float] | None = None
    metric: str | None = None

    @property
    def is_finished(self) -> bool:
        """Whether the job ended; a finished job is final."""
        return self.is_true("Complete") or self.is_true("Failed")


class TrainingJob(CustomResource):
    """One training."""

    KIND: ClassVar[str] = "TrainingJob"
    OWNER_LABEL: ClassVar[str] = "bloomery.dev/trainingjob"

    spec: TrainingJobSpec
    status: TrainingJobStatus = Field(default_factory=TrainingJobStatus)

    @property
    def registered_model(self) -> str:
        """Name of the registered model in MLflow."""
        return self.spec.output.registered_model or self.metadata.name
