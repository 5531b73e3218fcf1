"""BatchPrediction: the answers of one model for all images of a source, written to a store, once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from bloomery_operator.api.base import ApiModel, PodTemplate, Resources, SecretReference, at_most, at_most_entries
from bloomery_operator.api.conditions import JobStatus
from bloomery_operator.api.custom_resource import CustomResource
from bloomery_operator.api.inferenceservice import AnswerPolicy


class PredictingModel(ApiModel):
    """The model that predicts: of a TrainingJob, of MLflow's registry, or a model folder in the store."""

    training_job: str | None = None
    mlflow: str | None = None
    uri: str | None = None


class ImageSource(ApiModel):
    """Location of the images; they need no labels."""

    uri: str
    encoding: str | None = None
    max_archive_bytes: str | int | None = None
    secret_ref: SecretReference | None = None


class PredictionOutput(ApiModel):
    """Destination of the answers, and their form."""

    uri: str
    format: Literal["JSONL", "CSV"] = "JSONL"
    folders: bool = False
    secret_ref: SecretReference | None = None


class BatchPredictionSpec(ApiModel):
    """Spec of a BatchPrediction; immutable except for suspend and the TTL."""

    model: PredictingModel
    source: ImageSource
    output: PredictionOutput
    parallelism: int = 1
    answer: AnswerPolicy | None = None
    engine: Literal["Auto", "OnnxRuntime", "OpenVINO"] | None = None
    resources: Resources | None = None
    scratch: str | int | None = None
    suspend: bool | None = None
    queue: str | None = None
    pod_template: PodTemplate | None = None
    active_deadline_seconds: int | None = None
    backoff_limit: int = 3
    ttl_seconds_after_finished: int | None = None


class PredictionProgress(ApiModel):
    """Progress of a running prediction; ``eta`` is a Go-style duration."""

    files: Annotated[str | None, at_most(64)] = None
    images_per_second: float | None = None
    eta: Annotated[str | None, at_most(32)] = None


class UsedModel(ApiModel):
    """The resolved model: its registry version and its folder."""

    name: Annotated[str | None, at_most(256)] = None
    version: Annotated[str | None, at_most(64)] = None
    display: Annotated[str | None, at_most(328)] = None
    uri: Annotated[str | None, at_most(2048)] = None
    digest: Annotated[str | None, at_most(128)] = None


class BatchPredictionStatus(JobStatus):
    """Status of a BatchPrediction: its progress and its counts."""

    model: UsedModel | None = None
    engine: Annotated[str | None, at_most(64)] = None
    images: int | None = None
    ignored_files: int | None = None
    ignored: Annotated[Mapping[str, int] | None, at_most_entries(32)] = None
    total: int | None = None
    progress: PredictionProgress | None = None


class BatchPrediction(CustomResource):
    """A prediction of many images."""

    KIND: ClassVar[str] = "BatchPrediction"
    OWNER_LABEL: ClassVar[str] = "bloomery.dev/batchprediction"

    spec: BatchPredictionSpec
    status: BatchPredictionStatus = Field(default_factory=BatchPredictionStatus)
