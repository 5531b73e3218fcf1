"""InferenceService: weighted model versions behind one address."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from bloomery_operator.api.base import ApiModel, PodTemplate, Resources, SecretReference, at_most, at_most_entries
from bloomery_operator.api.conditions import CustomResourceStatus
from bloomery_operator.api.custom_resource import CustomResource
from bloomery_operator.api.durations import seconds_of


class ModelSource(ApiModel):
    """Source of a variant's model: a TrainingJob, MLflow's registry, or a model folder in the store."""

    training_job: str | None = None
    mlflow: str | None = None
    update: Literal["Pinned", "Follow"] | None = None
    uri: str | None = None

    @property
    def follows(self) -> bool:
        """Whether the model changes when its alias moves."""
        return self.update == "Follow"


class Autoscaling(ApiModel):
    """A HorizontalPodAutoscaler for one variant; ``metrics`` as in autoscaling/v2."""

    min: int = 1
    max: int
    metrics: tuple[dict[str, Any], ...] = ()


class AnswerPolicy(ApiModel):
    """The confidence from which on a variant answers; below it, an image is unknown."""

    min_confidence: float | None = None
    precision: float | None = None


class Variant(ApiModel):
    """A model with its weight, in percent of the traffic."""

    name: str
    model: ModelSource
    weight: int
    replicas: int | None = None
    autoscaling: Autoscaling | None = None
    mirror_percent: int | None = None
    answer: AnswerPolicy | None = None
    engine: Literal["Auto", "OnnxRuntime", "OpenVINO"] | None = None
    resources: Resources | None = None
    scratch: str | int | None = None
    pod_template: PodTemplate | None = None


class AbortOn(ApiModel):
    """Limits of how much worse a canary may be than the revision that it replaces."""

    error_rate: float | None = None
    p99_ratio: float | None = None
    confidence_drop: float | None = None
    disagreement: float | None = None
    live_accuracy_drop: float | None = None
    min_requests: int = 100


class Rollout(ApiModel):
    """Steps in which the traffic moves to a new model or new weights."""

    steps: tuple[int, ...]
    pause_at: tuple[int, ...] = ()
    interval: str = "1m"
    abort_on: AbortOn | None = None

    @property
    def interval_seconds(self) -> int:
        """Minimum duration of a step."""
        return seconds_of(self.interval)

    @property
    def min_requests(self) -> int:
        """Minimum number of requests in a step."""
        return self.abort_on.min_requests if self.abort_on else 0


class Cors(ApiModel):
    """Pages of other origins that browsers let call a service."""

    allow_origins: tuple[str, ...]


class Capture(ApiModel):
    """Capture of requests' images for later training; the model server has the defaults."""

    uri: str
    secret_ref: SecretReference | None = None
    percent: float | None = None
    low_confidence: float | None = None
    per_class: int | None = None
    max_per_hour: int | None = None
    strip_metadata: bool | None = None


class Feedback(ApiModel):
    """The API keys with which the true classes of captured images may be sent."""

    keys: tuple[str, ...]


class InferenceServiceSpec(ApiModel):
    """Spec of an InferenceService; may change at any time."""

    variants: tuple[Variant, ...]
    display_name: str | None = None
    description: str | None = None
    replicas: int = 1
    strategy: Literal["RollingUpdate", "Recreate"] | None = None
    rollout: Rollout | None = None
    path: str | None = None
    auth: Literal["ApiKey", "None"] = "ApiKey"
    cors: Cors | None = None
    explain: bool | None = None
    capture: Capture | None = None
    feedback: Feedback | None = None
    auto_stop: str | None = None
    stopped: bool | None = None


class VariantStatus(ApiModel):
    """Model and pods of a variant."""

    name: Annotated[str, at_most(63)]
    model: Annotated[str | None, at_most(2048)] = None
    uri: Annotated[str | None, at_most(2048)] = None
    model_hash: Annotated[str | None, at_most(64)] = None
    run_id: Annotated[str | None, at_most(64)] = None
    training_job: Annotated[str | None, at_most(253)] = None
    dataset: Annotated[str | None, at_most(328)] = None
    dataset_version: Annotated[str | None, at_most(1024)] = None
    digest: Annotated[str | None, at_most(128)] = None
    image: Annotated[str | None, at_most(1024)] = None
    revision: Annotated[str | None, at_most(63)] = None
    weight: int
    replicas: int = 0
    ready: int = 0
    message: Annotated[str | None, at_most(2048)] = None


class RevisionWeight(ApiModel):
    """The weight of a revision, in basis points."""

    revision: Annotated[str, at_most(63)]
    weight: int


class RolloutStatus(ApiModel):
    """State of a rollout, from which a restarted operator continues."""

    from_: tuple[RevisionWeight, ...] = Field(alias="from")
    to: tuple[RevisionWeight, ...]
    step: int
    percent: int
    since: datetime
    generation: int
    aborted: bool = False
    message: Annotated[str | None, at_most(2048)] = None


class InferenceServiceStatus(CustomResourceStatus):
    """Status of an InferenceService: its address and its variants."""

    started_at: datetime | None = None
    stops_at: datetime | None = None
    rollout: RolloutStatus | None = None
    url: Annotated[str | None, at_most(2048)] = None
    api_key_secret: Annotated[str | None, at_most(253)] = None
    replicas: int | None = None
    ready_replicas: int | None = None
    ready: Annotated[str | None, at_most(32)] = None
    scaled_replicas: int | None = None
    selector: Annotated[str | None, at_most(1024)] = None
    traffic: Annotated[str | None, at_most(512)] = None
    variants: Annotated[tuple[VariantStatus, ...], at_most_entries(16)] = ()


class InferenceService(CustomResource):
    """A served classifier."""

    KIND: ClassVar[str] = "InferenceService"
    OWNER_LABEL: ClassVar[str] = "bloomery.dev/inferenceservice"

    spec: InferenceServiceSpec
    status: InferenceServiceStatus = Field(default_factory=InferenceServiceStatus)

    @property
    def path(self) -> str:
        """The path prefix on the gateway."""
        return self.spec.path or f"/{self.metadata.namespace}/{self.metadata.name}"

    @property
    def recreates_pods(self) -> bool:
        """Whether old pods end before new ones start."""
        return self.spec.strategy == "Recreate"

    def capture_of(self, variant: Variant) -> Capture | None:
        """Return what a variant captures; a shadow answers nobody, and captures nothing."""
        return None if variant.mirror_percent else self.spec.capture

    def replicas_of(self, variant: Variant) -> int:
        """Return the number of pods that a variant should have."""
        return self.spec.replicas if variant.replicas is None else variant.replicas

    def is_off(self, variant: Variant) -> bool:
        """Return whether a variant should have no pods; an autoscaler always keeps some."""
        return variant.autoscaling is None and self.replicas_of(variant) == 0
